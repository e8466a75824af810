"""Reports the completions that vLLM has finished while it still generates others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rft_trainer.generation import Finished


@contextmanager
def finished_requests(llm: Any, on_finished: Finished) -> Iterator[None]:
    """Make `llm.generate` (of a `vllm.LLM`) report each completion as soon as it is finished, inside the context.

    Each prompt has one completion. vLLM adds the requests one after the other, in the order of the prompts.
    """
    engine = llm.llm_engine
    step, add_request = engine.step, engine.add_request
    places: dict[str, int] = {}

    def numbered_add(request_id: str, *args: Any, **kwargs: Any) -> Any:
        places[request_id] = len(places)
        return add_request(request_id, *args, **kwargs)

    def reporting_step() -> Any:
        outputs = step()
        completions = {
            places[output.request_id]: list(output.outputs[0].token_ids)
            for output in outputs
            if output.finished and output.request_id in places
        }
        if completions:
            on_finished(completions)
        return outputs

    engine.add_request, engine.step = numbered_add, reporting_step
    try:
        yield
    finally:
        del engine.add_request, engine.step
