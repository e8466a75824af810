"""Tells which completions vLLM has finished while it still generates others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rft_trainer.generation import Finished


@contextmanager
def finished_requests(llm: Any, on_finished: Finished) -> Iterator[None]:
    """Inside, `llm.generate` (a `vllm.LLM`) also reports each completion as soon as it is finished.

    One completion a prompt. vLLM numbers requests one after the other, in the order of the prompts.
    """
    engine = llm.llm_engine
    step, add_request = engine.step, engine.add_request
    places: dict[str, int] = {}

    def numbered_add(request_id: str, *args: Any, **kwargs: Any) -> Any:
        places[request_id] = len(places)
        return add_request(request_id, *args, **kwargs)

    def reporting_step() -> Any:
        outputs = step()
        done = {
            places[output.request_id]: list(output.outputs[0].token_ids)
            for output in outputs
            if output.finished and output.request_id in places
        }
        if done:
            on_finished(done)
        return outputs

    engine.add_request, engine.step = numbered_add, reporting_step
    try:
        yield
    finally:
        del engine.add_request, engine.step
