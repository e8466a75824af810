"""The first job on a cluster: the commands of its page, word for word; real pods train the real model and serve it."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest
import yaml
from cluster.kubectl import Kubectl, Manifest
from cluster.object_store import ObjectStore
from cluster.prometheus import Prometheus
from cluster.prometheus_operator import PrometheusOperator
from support import hacking, tiny_jobs
from support.dashboards import alert_queries, alert_rules, panel_queries, read_dashboards
from support.pages import ROOT, Commands, page, script
from support.patience import PATIENCE_SECONDS
from support.reward_pods import score_in_pods
from support.sleeping_model import check_sleeping_model
from support.tiny import write_model
from support.tiny_jobs import wait_for_reason

from rft_api.resource import API_VERSION
from rft_api.run_folder import RunFolder
from rft_api.summary import Summary
from rft_charts.draw import draw, fetch_from

JOB = ROOT / "examples" / "quickstart" / "kubernetes" / "job.yaml"
CLEAN_UP = "\n## 8. Clean up\n"
"""Where the page takes everything away again."""
STEPS = 8
"""As the page has them for a short first try."""
MONITORS = 5
"""Of the operator, the gateway, the trainers, the reward servers and the models' servers."""
SAMPLES = 4 * 8
"""Completions of a step."""

DAY_SECONDS = 86_400
TRAINING = {
    'rft_train_reward_mean{split="train"}': (0, 1),
    'rft_train_reward_mean{split="validation"}': (0, 1),
    'rft_train_reward_component_mean{component="value",split="train"}': (0, 1),
    'rft_train_reward_component_mean{component="unit",split="validation"}': (0, 1),
    "rft_train_reward_std": (0, 0.6),
    'rft_train_episode_length_tokens_mean{split="train"}': (1, 24),
    'rft_train_episode_length_tokens_mean{split="validation"}': (1, 24),
    "rft_train_gradient_norm": (0, 1000),
    "rft_train_advantage_mean": (-0.01, 0.01),
    "rft_train_advantage_std": (0, 2),
    "rft_train_advantage_abs_mean": (0, 2),
    "rft_train_policy_entropy": (0, 11),
    "rft_train_zero_variance_group_ratio": (0, 1),
    "rft_train_clipped_completion_ratio": (0, 1),
    "rft_train_step": (1, STEPS),
    "rft_train_planned_steps": (STEPS, STEPS),
    'rft_train_step_seconds{phase="generate"}': (0, DAY_SECONDS),
    'rft_train_step_seconds{phase="reward"}': (0, DAY_SECONDS),
    'rft_train_step_seconds{phase="update"}': (0, DAY_SECONDS),
    "rft_train_tokens_total": (SAMPLES, STEPS * SAMPLES * 200),
    "rft_train_rewards_failed_total": (0, 0),
}
"""What the trainer publishes, and between what its values must lie."""
CODE = """
import os

def lambda_handler(event, context):
    if "end" in event[0]["messages"][-1]["content"]:
        os._exit(1)
    raise ValueError("no score")
"""
"""A reward that ends its process, or fails."""
HACKING = "data/hacking"
"""Where the data of the job that hacks its reward are."""
REWARD_SERVER = {
    'rft_reward_requests_total{code="200"}': (1, 1000),
    'rft_reward_samples_total{outcome="scored"}': (STEPS * SAMPLES, 10000),
    "rft_reward_batch_seconds_count": (1, 1000),
    "rft_reward_workers": (0, 64),
    "rft_reward_isolated": (0, 1),
}


@pytest.fixture
def environment(shell_environment: dict[str, str], s3: ObjectStore, team_name: str) -> dict[str, str]:
    """What the page says that its commands take from the environment."""
    return {**shell_environment, "NAMESPACE": team_name, **s3.environment(in_pods=True)}


@pytest.fixture
def folder(tmp_path: Path, smollm2: Path) -> Path:
    """A fresh folder that has of the repository what the page's commands name."""
    made = tmp_path / "repository"
    (made / ".cache" / "models").mkdir(parents=True)
    (made / ".cache" / "models" / smollm2.name).symlink_to(smollm2)
    (made / ".venv").symlink_to(ROOT / ".venv")
    shutil.copytree(ROOT / "examples", made / "examples")
    # In bfloat16 two programs round differently, and ties between tokens fall the other way.
    job = made / "examples" / JOB.relative_to(ROOT / "examples")
    manifest = job.read_text(encoding="utf-8")
    for field in ("gpusPerNode: 0", "gpus: 0"):
        manifest = manifest.replace(f"    {field}\n", f"    {field}\n    precision: Float32\n")
    job.write_text(manifest, encoding="utf-8")
    assert manifest.count("precision: Float32") == 2
    return made


def test_the_first_job_on_a_cluster_trains_and_is_served(
    kubectl: Kubectl,
    team_name: str,
    bucket: Path,
    folder: Path,
    environment: dict[str, str],
    scraped: Prometheus,
    monitored: Prometheus,
    prometheus_operator: PrometheusOperator,
):
    of = f"--namespace={team_name}"
    started = time.monotonic()
    monitored.scrape(*prometheus_operator.written(monitors=MONITORS))
    tiny_jobs.store_inputs(bucket, write_model(folder.parent / "tiny"))
    # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
    write_model(bucket / "models" / "wide", hidden=128, tied=False)
    hacking.write_data(bucket / HACKING)
    commands, heading, cleaning = page("first-job-on-a-cluster.md").partition(CLEAN_UP)
    assert heading
    with Commands(script(commands), folder, environment) as followed:
        kubectl.wait_for("secret", "s3-credentials", of, until=lambda _: True)
        quickstart = list(yaml.safe_load_all(JOB.read_text(encoding="utf-8")))[1]
        kubectl.apply(*troubles(quickstart, bucket), namespace=team_name)
        said = followed.finish()
    check_result(kubectl.get("rftjob", "quickstart", of), bucket)
    check_metrics(scraped, team_name)
    run = RunFolder(bucket / "runs" / "quickstart")
    check_answers(kubectl, team_name, run)
    assert json.loads(said.splitlines()[-1])["model"] == "quickstart"
    kubectl.wait("condition=Ready", of, "rewardfunction/troubled")
    make_trouble(kubectl, team_name)
    wait_for_reason(kubectl, team_name, "broken", "DataInvalid")
    wait_for_reason(kubectl, team_name, "queued", "Queued")
    hacked = wait_for_reason(kubectl, team_name, "hacked", "Succeeded")
    assert tiny_jobs.condition(hacked, "RewardHackingSuspected")["reason"] == "ShadowFalls"
    wait_for_reason(kubectl, team_name, "sampled", "Succeeded")
    check_sleeping_model(kubectl, team_name, environment)
    for prometheus in (scraped, monitored):
        check_dashboards(prometheus, time.monotonic() - started)
    check_rules(monitored)
    pictures = draw(scraped.url, time.monotonic() - started, Path(os.environ.get("RFT_PICTURES", folder / "pictures")))
    assert sorted(picture.stem for picture in pictures) == sorted(read_dashboards())
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)

    with Commands(script(cleaning), folder, environment) as followed:
        followed.finish()
    kubectl.wait("delete", f"namespace/{team_name}")
    assert (run.best / "adapter_model.safetensors").stat().st_size > 0


def check_result(job: dict[str, Any], bucket: Path) -> None:
    """The status says what the output in the bucket says."""
    run = RunFolder(bucket / "runs" / "quickstart")
    summary = Summary.model_validate_json(run.summary.read_bytes())
    assert summary.steps == STEPS
    assert summary.rewards_failed == 0
    assert json.loads(run.config.read_text(encoding="utf-8"))["compute"]["processesPerNode"] == 2
    result = job["status"]["result"]
    assert float(result["baselineReward"]) == pytest.approx(summary.base.reward, abs=1e-4)
    assert float(result["bestReward"]) == pytest.approx(summary.tuned.reward, abs=1e-4)
    assert result["checkpoint"].startswith("s3://rft/runs/quickstart/")
    best = run.best
    assert (best / "adapter_model.safetensors").stat().st_size > 0
    assert job["status"]["progress"]["step"] == STEPS
    # Each process generated and scored its share of every step.
    assert pyarrow.parquet.read_table(run.rollout(STEPS)).num_rows == SAMPLES


def check_metrics(prometheus: Prometheus, team: str) -> None:
    """Prometheus has every curve, with the labels of the job, with values that can be true."""
    expected = [(series(name, f'namespace="{team}",job="quickstart"'), limits) for name, limits in TRAINING.items()]
    expected += [(series(name, 'pod=~"amount-reward-.*"'), limits) for name, limits in REWARD_SERVER.items()]
    of_job = f'namespace="{team}",job="quickstart"'
    expected += [
        (series("rft_job_info", of_job + ',algorithm="GRPO"'), (1, 1)),
        (series("rft_job_condition", of_job + ',type="Succeeded",status="True",reason="Succeeded"'), (1, 1)),
        (series("rft_job_gpu_seconds_total", of_job), (0, 0)),
        ('rft_operator_reconcile_seconds_count{kind="RFTJob"}', (1, 100000)),
        ("rft_operator_leader", (1, 1)),
    ]
    for query, (low, high) in expected:
        prometheus.wait_for(f"last_over_time({query}[1h])")
        for sample in prometheus.query(f"max_over_time({query}[1h])"):
            assert low <= float(sample["value"][1]) <= high, (query, sample)
        for sample in prometheus.query(f"min_over_time({query}[1h])"):
            assert float(sample["value"][1]) >= min(low, 0), (query, sample)


def series(name: str, labels: str) -> str:
    """A selector with further labels."""
    metric, brace, own = name.partition("{")
    return f"{metric}{{{own.rstrip('}')},{labels}}}" if brace else f"{metric}{{{labels}}}"


def check_answers(kubectl: Kubectl, team: str, run: RunFolder) -> None:
    """Base and tuned model answer through their Services as the evaluation says, and differ as it says."""
    of = f"--namespace={team}"
    base, tuned = (pyarrow.parquet.read_table(run.evaluation(stage)).to_pylist() for stage in ("base", "tuned"))
    changed = [
        (before, after)
        for before, after in zip(base, tuned, strict=True)
        if before["completion"] != after["completion"]
    ]
    assert changed, "training changed no answer"
    agreed = 0
    for before, after in changed[:8]:
        answers = {name: complete(kubectl, of, name, before["prompt"]) for name in ("smollm2", "quickstart")}
        agreed += answers["smollm2"] == before["completion"] and answers["quickstart"] == after["completion"]
    assert agreed >= 0.85 * len(changed[:8]), agreed


def complete(kubectl: Kubectl, of: str, endpoint: str, prompt: str) -> str:
    """What an endpoint answers, asked through its Service."""
    status = kubectl.get("inferenceendpoint", endpoint, of)["status"]
    service = kubectl.get("service", f"{endpoint}-server", of)["spec"]
    url = f"http://{service['clusterIP']}:{service['ports'][0]['port']}/v1/chat/completions"
    body = {"model": status["modelName"], "messages": json.loads(prompt), "temperature": 0, "max_tokens": 24}
    answer = httpx.post(url, json=body, timeout=PATIENCE_SECONDS, trust_env=False)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def troubles(job: Manifest, bucket: Path) -> list[Manifest]:
    """Objects that give data to panels of what does not happen in the quickstart."""
    broken, queued = (
        {**job, "metadata": {"name": name}, "spec": {**job["spec"], "output": {"uri": f"s3://rft/runs/{name}"}}}
        for name in ("broken", "queued")
    )
    for made in (broken, queued):
        made["spec"].pop("endpoint")
    missing = {"name": "missing", "uri": "s3://rft/data/missing.jsonl", "reward": "amount"}
    broken["spec"] = {**broken["spec"], "data": {"train": [missing]}}
    # Nobody looks after the queue.
    queued["spec"]["queueName"] = "team-a"
    judge = {"template": "Summarization", "model": {"endpoint": "smollm2"}, "maxTokens": 16}
    terms = [
        {"name": "judged", "weight": "0.5", "judge": judge},
        # Refuses callers without its token.
        {"name": "asked", "weight": "0.3", "http": {"url": "http://amount-reward:8080/v1/score"}},
        {"name": "coded", "weight": "0.2", "python": {"source": CODE}},
    ]
    troubled = {
        "apiVersion": API_VERSION,
        "kind": "RewardFunction",
        "metadata": {"name": "troubled"},
        "spec": {"combine": {"terms": terms}, "egress": [{"cidr": "10.0.0.0/8", "port": 8080}]},
    }
    hacked = tiny_jobs.job("hacked", bucket, **hacking.hackable(f"s3://{bucket.name}/{HACKING}", "brevity"))
    hacked["spec"]["hyperparameters"] |= {"klCoefficient": "0.001"}
    # Only a job whose completions come from vLLM has importance ratios.
    sampled = tiny_jobs.job("sampled", bucket, tuning={"type": "LoRA"})
    sampled["spec"]["model"]["uri"] = f"s3://{bucket.name}/models/wide"
    sampled["spec"]["compute"] = {"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}}
    imitating = tiny_jobs.job("imitating", bucket)
    del imitating["spec"]["data"]
    imitating["spec"]["hyperparameters"] = {"maxPromptTokens": 32, "maxCompletionTokens": 8}
    answers = [{"name": "answers", "uri": f"s3://{bucket.name}/{HACKING}/warmup.jsonl"}]
    # It goes on long enough to be scraped.
    imitating["spec"]["warmup"] = {"data": answers, "validation": answers, "epochs": 50, "batchSize": 4}
    # Their steps take long enough to be scraped.
    slow = hacking.REWARDS["digits"].replace("    rows = []", "    time.sleep(1)\n    rows = []", 1)
    rewards = [
        {**tiny_jobs.reward(source), "metadata": {"name": name}}
        for name, source in (("digits", "import time\n" + slow), ("brevity", hacking.REWARDS["brevity"]))
    ]
    return [broken, queued, troubled, hacked, sampled, imitating, *rewards]


def make_trouble(kubectl: Kubectl, team: str) -> None:
    """Has the troubled reward score: its judge answers what a small model answers, and the rest fails."""
    for text in ("go on", "end", "go on"):  # what was judged before is not judged again
        messages = [{"role": "user", "content": "Sum this up: a b c"}, {"role": "assistant", "content": text}]
        score_in_pods(kubectl, team, "troubled", [{"id": "1", "messages": messages, "reference_answer": "a"}])


def check_dashboards(prometheus: Prometheus, seconds: float) -> None:
    """Every query of every panel draws something, and every series that an alert looks at is there."""
    # Rates take more than one scrape, and curves have a point every five seconds.
    prometheus.wait_for('count_over_time(rft_reward_worker_restarts_total{rft_dev_owner="troubled"}[1m]) > 2')
    suspected = 'rft_job_condition{type="RewardHackingSuspected",status="True"}'
    prometheus.wait_for(f"count_over_time({suspected}[1m]) > 6")
    prometheus.wait_for("count_over_time(rft_train_warmup_validation_loss[1h]) > 2")
    fetch = fetch_from(prometheus.url, seconds)
    assert [asked.place for asked in panel_queries() if not fetch(asked.expression)] == []
    missing = [(asked.place, metric) for asked in alert_queries() for metric in asked.metrics if not fetch(metric)]
    assert missing == []


def check_rules(prometheus: Prometheus) -> None:
    """The Prometheus has the chart's alerts, can evaluate them all, and sees the one whose job there is."""
    expected = sorted(rule["alert"] for rule in alert_rules())
    assert sorted(rule["name"] for rule in prometheus.rules()) == expected
    assert [rule for rule in prometheus.rules() if rule["health"] != "ok"] == []
    prometheus.wait_for('ALERTS{alertname="RFTRewardHackingSuspected",job="hacked"}')
