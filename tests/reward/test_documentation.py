"""The example handler and what docs/rewards.md says about it."""

import json
import re
from pathlib import Path

import yaml

from rft_api.reward_function import RewardFunction

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "lambda-handler"
PAGE = (ROOT / "docs" / "rewards.md").read_text()


def block(name):
    return re.search(rf"```json title=\"{name}\"\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_pages_request_gives_the_pages_answer(server_for):
    manifest = yaml.safe_load((EXAMPLE / "reward.yaml").read_text())
    assert manifest["spec"]["python"]["source"] == (EXAMPLE / "handler.py").read_text()
    server = server_for(manifest["spec"])
    assert server.score(json.loads(block("request"))) == json.loads(block("answer"))


def test_the_pages_manifests_are_valid():
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        spec = yaml.safe_load(text)["spec"]
        if set(spec) == {"tests"}:
            spec["builtin"] = {"name": "Math"}
        RewardFunction.model_validate({"metadata": {"name": "page"}, "spec": spec})
