"""`rft_loader follow` with a real vLLM: names answer with the adapters that the list gives them."""

import time

import httpx
import pytest
from support.loader import LoaderProgram, write_list
from support.patience import PATIENCE_SECONDS
from support.vllm import Vllm

from rft_api.exit_codes import ExitCode


class Adapted(Vllm):
    """A vLLM server that takes adapters."""

    def __init__(self, folder, model):
        adapters = ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"]
        allowed = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
        super().__init__(
            folder, model, "--served-model-name", "base", "--max-model-len", "128", *adapters, environment=allowed
        )

    def answer(self, model):
        """What a model makes of a prompt; none when there is no such model."""
        body = {"model": model, "prompt": "3 1 4 2: ", "temperature": 0, "max_tokens": 16, "ignore_eos": True}
        response = httpx.post(f"{self.url}/v1/completions", json=body, timeout=PATIENCE_SECONDS, trust_env=False)
        if response.status_code == 404:
            return None
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["text"]


@pytest.fixture
def vllm(tmp_path, base):
    """A server that has not been started."""
    server = Adapted(tmp_path, base)
    yield server
    server.stop()


def test_names_answer_as_the_list_says(tmp_path, vllm, base, bucket, adapters):
    """One test, as a server takes long to start."""
    one, two = bucket.put(adapters / "one", "runs/one/best"), adapters / "two"
    loader = LoaderProgram(tmp_path / "loader", base, vllm.url, bucket.environment)
    write_list(loader.list, {"a": one, "b": two, "wide": adapters / "wide"})
    loader.start()

    def states(**expected):
        def reached(said):
            return {name: item["state"] for name, item in said.items()} == expected

        loader.wait_for(reached)

    # As in a pod, long before the server answers; it is started only now, so that it cannot be faster.
    states(a="Loading", b="Loading", wide="Failed")
    vllm.start()
    vllm.wait()
    states(a="Loaded", b="Loaded", wide="Failed")
    plain, by_one, by_two = vllm.answer("base"), vllm.answer("a"), vllm.answer("b")
    assert len({plain, by_one, by_two}) == 3
    assert vllm.answer("wide") is None

    # Other addresses under the same names, one goes, and one has a name that is taken.
    write_list(loader.list, {"a": two, "c": one, "base": two})
    states(a="Loaded", c="Loaded", base="Failed")
    assert (vllm.answer("a"), vllm.answer("c"), vllm.answer("base")) == (by_two, by_one, plain)
    assert "conflicts with a served base model" in loader.adapters()["base"]["message"]
    loader.wait_for(lambda _: vllm.answer("b") is None)

    # The loader starts again: nothing is loaded again. Before, what was refused goes: it is tried again and again.
    write_list(loader.list, {"a": two, "c": one})
    states(a="Loaded", c="Loaded")
    loader.stop()
    before = (tmp_path / "vllm.log").read_text().count("POST /v1/load_lora_adapter")
    loader.start()
    states(a="Loaded", c="Loaded")
    time.sleep(3)
    assert (tmp_path / "vllm.log").read_text().count("POST /v1/load_lora_adapter") == before

    # The server starts again: everything is loaded again.
    vllm.stop()
    states(a="Loading", c="Loading")
    vllm.start()
    vllm.wait()
    states(a="Loaded", c="Loaded")
    assert (vllm.answer("a"), vllm.answer("c"), vllm.answer("base")) == (by_two, by_one, plain)
    assert loader.stop() == ExitCode.INTERRUPTED
    assert "Traceback" not in loader.log
