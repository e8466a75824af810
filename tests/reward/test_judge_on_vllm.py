"""A judge that vLLM serves: the same requests as to any other API, with a tiny model that knows nothing."""

import json
import string

from support import tiny
from support.patience import PATIENCE_SECONDS
from support.vllm import Vllm


def test_vllm_judges(tmp_path, start_server, build_sample, monkeypatch):
    monkeypatch.setattr(tiny, "ALPHABET", string.printable)  # what JSON is written in
    model = tiny.write_model(tmp_path / "model", hidden=128, tied=False)
    # A token a letter: what a judge is told is longer than what the model was made for.
    configuration = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**configuration, "max_position_embeddings": 8192}))
    with Vllm(tmp_path, model, "--served-model-name", "judge") as vllm:
        judging = {"url": f"{vllm.url}/v1", "name": "judge"}
        judge = {"template": "Reasoning", "model": judging, "maxTokens": 16, "rubric": "5: right."}
        server = start_server({"timeout": "240s", "judge": judge}).wait_ready()
        server.client.timeout = PATIENCE_SECONDS
        rows = server.score([build_sample(str(number), f"answer {number}") for number in range(2)])
        for row in rows:
            # What it is made to write is JSON, but it does not find to the end of it.
            if row["aggregate_reward_score"] is None:
                assert "the judge's answer holds no rating" in row["error"], row
                assert "{" in row["error"]
        assert server.metric('rft_reward_judge_requests_total{outcome="answered"}') >= 2
        assert server.metric('rft_reward_judge_tokens_total{kind="prompt"}') > 400
        assert server.metric('rft_reward_judge_tokens_total{kind="completion"}') >= 2
        unknown = {**judge, "model": {**judging, "name": "absent"}}
        server = start_server({"timeout": "60s", "judge": unknown}).wait_ready()
        assert "model absent answered 404" in server.score_one("x")["error"]
