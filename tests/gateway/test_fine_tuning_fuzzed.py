"""Thousands of requests for jobs that are nearly right: each becomes a job that can be read back, or is refused."""

from __future__ import annotations

import json
import random

import pytest
from support.fine_tuning import LAMBDA, SCORE_MODEL, STRING_CHECK, base_endpoint, config_map, request
from support.mutation import bounded, mutated

from rft_gateway.errors import ApiError
from rft_gateway.fine_tuning.defaults import read_defaults
from rft_gateway.fine_tuning.events import describe_events
from rft_gateway.fine_tuning.grader_runs import make_run, make_sample
from rft_gateway.fine_tuning.job import Job
from rft_gateway.fine_tuning.request import read_request, read_run
from rft_gateway.fine_tuning.translation import DataFile, make_objects
from rft_gateway.requests import parse_body
from rft_reward.samples import read_samples

PYTHON = {"type": "python", "source": "import re\n\ndef grade(sample, item):\n    return 1.0\n"}
MULTI = {"type": "multi", "graders": {"a": STRING_CHECK, "b": PYTHON}, "calculate_output": "min(a, 0.5 * b)"}
SETTINGS = {"batch_size": 8, "n_epochs": 2, "learning_rate_multiplier": 0.5, "compute_multiplier": 2, "eval_samples": 2}
GRADERS = [STRING_CHECK, SCORE_MODEL, LAMBDA, PYTHON, MULTI, {"type": "reward_function", "name": "exact"}]


@pytest.mark.parametrize("grader", GRADERS, ids=lambda grader: grader["type"])
def test_requests(grader):
    generator = random.Random(7)
    defaults, base, file = read_defaults(config_map()), base_endpoint(), DataFile("file-t", "s3://data/t.jsonl")
    whole = request(grader, SETTINGS, suffix="Mine", seed=1, metadata={"a": "b"}, validation_file="s3://data/v.jsonl")
    content = json.dumps(whole).encode()
    outcomes = set()
    for _ in range(500):
        body = mutated(generator, content)
        try:
            with bounded():
                document = parse_body(body)
                read = read_request(document)
                made = make_objects(read, document, ("team", "ftjob-1"), defaults, base, (file, None))
        except ApiError as error:
            outcomes.add(error.status)
            continue
        stored = json.loads(json.dumps(made.job))
        stored["metadata"] |= {"uid": "1", "creationTimestamp": "2026-11-30T12:00:00Z"}
        job = Job(stored)
        assert job.describe()["status"] == "validating_files"
        assert job.user_metadata == read.metadata
        assert len(describe_events(job)) == 1
        outcomes.add("made")
    assert outcomes == {400, "made"}


@pytest.mark.parametrize("grader", GRADERS[:-1], ids=lambda grader: grader["type"])
def test_runs_of_graders(grader):
    generator = random.Random(8)
    defaults = read_defaults(config_map())
    item = {"answer": "4", "messages": [{"role": "user", "content": "2 + 2?"}], "reference_answer": {"a": [1]}}
    content = json.dumps({"grader": grader, "model_sample": '{"a": 1}', "item": item}).encode()
    outcomes = set()
    for _ in range(300):
        body = mutated(generator, content)
        try:
            with bounded():
                read = read_run(parse_body(body))
                function = make_run(read.grader, "team", defaults)
                sample = make_sample(read, function)
        except ApiError as error:
            outcomes.add(error.status)
            continue
        read_samples(json.dumps([sample]).encode(), by_group=False)
        assert sample["messages"][-1]["content"] == read.model_sample
        assert len(function["metadata"]["name"]) == len("run-") + 24
        outcomes.add("made")
    assert outcomes == {400, "made"}
