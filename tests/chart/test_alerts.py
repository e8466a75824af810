"""Every alert fires when it should and resolves afterwards, by Prometheus' own rule tests, and has its runbook."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.dashboards import alert_rules
from support.helm import CHART

ROOT = Path(__file__).parents[2]
FILE = CHART / "files" / "alerts.yaml"
RULES = alert_rules()
JOB = 'namespace="team",job="tax"'
RUNNING = f'rft_job_condition{{{JOB},type="Succeeded",status="Unknown",reason="Running"}}'
MODEL = 'namespace="team",model="tax",pod="gateway-0"'
BUDGET = 'namespace="team",key="ci",period="day"'
TRAINER = f'{JOB},pod="tax-trainer-0-0"'
HACKING = f'rft_job_condition{{{JOB},type="RewardHackingSuspected",status="True",reason="ValidationFalls"}}'


@dataclass(frozen=True)
class Case:
    """A story of series with a value a minute (in promtool's notation), and when the alert has to fire and not to."""

    alert: str
    what: str
    series: dict[str, str]
    fires: tuple[str, ...]
    quiet: tuple[str, ...]
    labels: dict[str, str] = field(default_factory=dict)


OF_JOB = {"namespace": "team", "job": "tax"}
OF_MODEL = {"namespace": "team", "model": "tax"}
OF_TRAINER = {**OF_JOB, "pod": "tax-trainer-0-0"}
NOT_READY = {"type": "Ready", "status": "False"}


def condition(kind: str, name: str, labels: str) -> str:
    return f'rft_{kind}_condition{{namespace="team",{kind}="{name}",{labels}}}'


CASES = [
    Case(
        "RFTJobStuck", "after steps, until there are steps again",
        {
            f"rft_train_step{{{TRAINER}}}": "0+1x20 20x70 21+1x40",
            f"rft_train_planned_steps{{{TRAINER}}}": "200x200",
            RUNNING: "1x200",
        },
        fires=("70m", "90m"), quiet=("10m", "40m", "100m", "120m"), labels=OF_TRAINER,
    ),
    Case(
        "RFTJobStuck", "once training has gone on for half an hour, not before",
        {
            f"rft_train_step{{{TRAINER}}}": "_x60 0x60",
            f"rft_train_planned_steps{{{TRAINER}}}": "_x60 200x60",
            RUNNING: "1x120",
        },
        fires=("97m",), quiet=("59m", "75m", "89m"), labels=OF_TRAINER,
    ),
    Case(
        "RFTJobStuck", "not when its steps are done",
        {
            f"rft_train_step{{{TRAINER}}}": "20x200",
            f"rft_train_planned_steps{{{TRAINER}}}": "20x200",
            RUNNING: "1x200",
        },
        fires=(), quiet=("100m",),
    ),
    Case(
        "RFTJobBlocked", "until there is room",
        {f'rft_job_condition{{{JOB},type="Succeeded",status="Unknown",reason="Unschedulable"}}': "1x30 _x10"},
        fires=("16m", "30m"), quiet=("10m", "37m"),
        labels={**OF_JOB, "type": "Succeeded", "status": "Unknown", "reason": "Unschedulable"},
    ),
    Case(
        "RFTJobBlocked", "not by a queue",
        {f'rft_job_condition{{{JOB},type="Succeeded",status="Unknown",reason="Queued"}}': "1x60"},
        fires=(), quiet=("60m",),
    ),
    Case(
        "RFTRewardCollapse", "until it has recovered",
        {f'rft_train_reward_mean{{{TRAINER},split="train"}}': "0.2+0.01x60 0.1x60 0.8x60"},
        fires=("100m", "118m"), quiet=("60m", "65m", "140m"), labels={**OF_TRAINER, "split": "train"},
    ),
    Case(
        "RFTRewardCollapse", "not with noise, and not with rewards below 0",
        {
            f'rft_train_reward_mean{{{TRAINER},split="train"}}': "0.4 0.7 0.5 0.3 0.6x60 0.5x60",
            f'rft_train_reward_mean{{{TRAINER.replace("tax", "below")},split="train"}}': "-1+0.01x60 -1x60",
        },
        fires=(), quiet=("30m", "100m"),
    ),
    Case(
        "RFTGradientNotFinite", "while there are such steps",
        {f"rft_train_nonfinite_steps_total{{{TRAINER}}}": "0x10 1 2 2x60"},
        fires=("12m", "20m"), quiet=("9m", "40m"), labels=OF_TRAINER,
    ),
    Case(
        "RFTGradientNotFinite", "for an hour after the end of the run",
        {f'rft_job_condition{{{JOB},type="Succeeded",status="False",reason="Diverged"}}': "_x10 1x200"},
        fires=("12m", "60m"), quiet=("5m", "90m"),
        labels={**OF_JOB, "type": "Succeeded", "status": "False", "reason": "Diverged"},
    ),
    Case(
        "RFTGradientExploding", "until it is of its size again",
        {f"rft_train_gradient_norm{{{TRAINER}}}": "0.5x120 40x40 0.6x60"},
        fires=("135m", "155m"), quiet=("100m", "122m", "180m"), labels=OF_TRAINER,
    ),
    Case(
        "RFTGradientExploding", "not by one step",
        {f"rft_train_gradient_norm{{{TRAINER}}}": "0.5x120 40 0.5x60"},
        fires=(), quiet=("121m", "125m", "130m"),
    ),
    Case(
        "RFTRewardHackingSuspected", "until a day after the end",
        {
            HACKING: "1x2000",
            RUNNING: "1x60 _x10",
            f'rft_job_condition{{{JOB},type="Succeeded",status="True",reason="Succeeded"}}': "_x60 1x2000",
        },
        fires=("2m", "200m", "1400m"), quiet=("1520m",),
        labels={**OF_JOB, "type": "RewardHackingSuspected", "status": "True", "reason": "ValidationFalls"},
    ),
    Case(
        "RFTRewardHackingSuspected", "not once it is no longer suspected",
        {
            HACKING: "1x20 _x60",
            f'rft_job_condition{{{JOB},type="RewardHackingSuspected",status="False",reason="None"}}': "_x20 1x60",
        },
        fires=("15m",), quiet=("30m",),
        labels={**OF_JOB, "type": "RewardHackingSuspected", "status": "True", "reason": "ValidationFalls"},
    ),
    Case(
        "RFTCheckpointTooOld", "until there is one",
        {
            # Tests begin at the epoch: the first checkpoint is complete after a minute.
            f"rft_train_checkpoint_timestamp_seconds{{{TRAINER}}}": "60x150 9000x60",
            f"rft_train_step{{{TRAINER}}}": "0+1x300",
            f"rft_train_planned_steps{{{TRAINER}}}": "400x300",
            RUNNING: "1x300",
        },
        fires=("130m", "145m"), quiet=("100m", "123m", "155m"), labels=OF_TRAINER,
    ),
    Case(
        "RFTRewardServerDown", "until it is ready",
        {
            condition("reward_function", "tax", 'type="Ready",status="False",reason="Starting"'): "1x30 _x30",
            condition("reward_function", "tax", 'type="Ready",status="True",reason="Ready"'): "_x30 1x30",
        },
        fires=("12m", "30m"), quiet=("5m", "37m"),
        labels={"namespace": "team", "reward_function": "tax", **NOT_READY, "reason": "Starting"},
    ),
    Case(
        "RFTRewardServerDown", "not by tests that fail",
        {condition("reward_function", "tax", 'type="Ready",status="False",reason="TestsFailing"'): "1x60"},
        fires=(), quiet=("60m",),
    ),
    Case(
        "RFTEndpointUnavailable", "until it answers",
        {
            condition("endpoint", "tax", 'type="Ready",status="False",reason="ServerFailing"'): "1x30 _x30",
            condition("endpoint", "tax", 'type="Ready",status="True",reason="Ready"'): "_x30 1x30",
            condition("endpoint", "off", 'type="Ready",status="False",reason="ScaledToZero"'): "1x60",
            condition("endpoint", "large", 'type="Ready",status="False",reason="Starting"'): "1x55 _x30",
            condition("endpoint", "asleep", 'type="Ready",status="False",reason="Waking"'): "1x55 _x30",
        },
        fires=("12m", "30m"), quiet=("5m", "37m"),
        labels={"namespace": "team", "endpoint": "tax", **NOT_READY, "reason": "ServerFailing"},
    ),
    Case(
        "RFTEndpointUnavailable", "when it starts for an hour",
        {condition("endpoint", "tax", 'type="Ready",status="False",reason="Starting"'): "1x90 _x30"},
        fires=("62m", "90m"), quiet=("50m", "97m"),
        labels={"namespace": "team", "endpoint": "tax", **NOT_READY, "reason": "Starting"},
    ),
    Case(
        "RFTGatewayLedgerUnavailable", "until it can be written",
        {'rft_gateway_errors_total{pod="a",code="ledger_unavailable"}': "0x10 1+2x10 21x30"},
        fires=("13m", "20m"), quiet=("10m", "40m"),
    ),
    Case(
        "RFTGatewayLedgerUnavailable", "when it is the first error of all",
        {'rft_gateway_errors_total{pod="a",code="ledger_unavailable"}': "_x10 1x30"},
        fires=("12m",), quiet=("9m", "20m"),
    ),
    Case(
        "RFTGatewayLedgerUnavailable", "not by mistakes of callers",
        {'rft_gateway_errors_total{pod="a",code="invalid_api_key"}': "0+9x40"},
        fires=(), quiet=("20m",),
    ),
    Case(
        "RFTGatewayLedgerBehind", "until it is fast again",
        {
            'rft_gateway_ledger_seconds_bucket{pod="a",le="0.01"}': "0+90x20 1800+5x30 1950+100x30",
            'rft_gateway_ledger_seconds_bucket{pod="a",le="1"}': "0+100x20 2000+10x30 2300+100x30",
            'rft_gateway_ledger_seconds_bucket{pod="a",le="2.5"}': "0+100x20 2000+100x30 5000+100x30",
            'rft_gateway_ledger_seconds_bucket{pod="a",le="+Inf"}': "0+100x20 2000+100x30 5000+100x30",
        },
        fires=("40m", "50m"), quiet=("15m", "25m", "70m"),
    ),
    Case(
        "RFTGatewayUsageMissing", "for a quarter of an hour",
        {f"rft_gateway_without_usage_total{{{MODEL}}}": "0x10 1x60"},
        fires=("12m", "20m"), quiet=("10m", "40m"), labels=OF_MODEL,
    ),
    Case(
        "RFTGatewayUsageMissing", "when the first answer of a pod has none",
        {f"rft_gateway_without_usage_total{{{MODEL}}}": "_x10 1x60"},
        fires=("12m", "20m"), quiet=("9m", "40m"), labels=OF_MODEL,
    ),
    Case(
        "RFTGatewayColdStartsFail", "for a quarter of an hour",
        {
            f'rft_gateway_cold_starts_total{{{MODEL},outcome="Failed"}}': "_x10 1x20 2x40",
            f'rft_gateway_cold_starts_total{{{MODEL},outcome="Started"}}': "1x70",
        },
        fires=("12m", "20m", "32m"), quiet=("9m", "28m", "60m"), labels=OF_MODEL,
    ),
    Case(
        "RFTGatewayColdStartsFail", "not when nobody waits any more",
        {f'rft_gateway_cold_starts_total{{{MODEL},outcome="Abandoned"}}': "0+1x40"},
        fires=(), quiet=("30m",),
    ),
    Case(
        "RFTGatewayLogsBehind", "until the store takes them",
        {'rft_gateway_log_waiting_seconds{namespace="rft-system",pod="gateway-0"}': "0x5 0+60x40 0x20"},
        fires=("30m", "45m"), quiet=("20m", "50m"), labels={"namespace": "rft-system", "pod": "gateway-0"},
    ),
    Case(
        "RFTGatewayRequestsFail", "until servers answer",
        {
            f'rft_gateway_requests_total{{{MODEL},outcome="Answered",code="200"}}': "0+60x20 1200+54x30 2820+60x40",
            f'rft_gateway_requests_total{{{MODEL},outcome="ServerFailed",code="502"}}': "0x20 0+6x30 180x40",
        },
        fires=("35m", "50m"), quiet=("15m", "24m", "75m"), labels=OF_MODEL,
    ),
    Case(
        "RFTGatewayRequestsFail", "not by one in fifty, and not by clients",
        {
            f'rft_gateway_requests_total{{{MODEL},outcome="Answered",code="200"}}': "0+49x60",
            f'rft_gateway_requests_total{{{MODEL},outcome="ServerFailed",code="502"}}': "0+1x60",
            f'rft_gateway_requests_total{{{MODEL},outcome="ClientLeft",code="499"}}': "0+50x60",
        },
        fires=(), quiet=("40m", "60m"),
    ),
    Case(
        "RFTGatewayBudgetNearEnd", "as the gateway counts that has let in most, until the next day begins",
        {
            f'rft_gateway_budget_used_ratio{{{BUDGET},pod="gateway-0"}}': "0.5+0.01x60 0x60",
            f'rft_gateway_budget_used_ratio{{{BUDGET},pod="gateway-1"}}': "0.4x120",
            f'rft_gateway_budget_used_ratio{{{BUDGET.replace("ci", "other")},pod="gateway-0"}}': "0.89x120",
        },
        fires=("48m", "60m"), quiet=("40m", "44m", "62m", "90m"),
        labels={"namespace": "team", "key": "ci", "period": "day"},
    ),
    Case(
        "RFTGatewayBudgetNearEnd", "not by a request that reserves much",
        {f'rft_gateway_budget_used_ratio{{{BUDGET},pod="gateway-0"}}': "0.5x20 0.95x2 0.5x40"},
        fires=(), quiet=("22m", "26m", "40m"),
    ),
    Case(
        "RFTOperatorNotReconciling", "when none leads, until one does",
        {'rft_operator_leader{pod="a"}': "1x20 0x30 1x30", 'rft_operator_leader{pod="b"}': "0x80"},
        fires=("27m", "50m"), quiet=("15m", "22m", "60m"),
    ),
    Case(
        "RFTOperatorNotReconciling", "when jobs run and no pass succeeds",
        {
            'rft_operator_leader{pod="a"}': "1x120",
            'rft_operator_reconcile_seconds_count{kind="RFTJob",outcome="done"}': "0+4x20 80x60 80+4x40",
            RUNNING: "1x120",
        },
        fires=("40m", "80m"), quiet=("15m", "30m", "90m"),
    ),
    Case(
        "RFTOperatorNotReconciling", "not when there is nothing to do",
        {
            'rft_operator_leader{pod="a"}': "1x120",
            'rft_operator_reconcile_seconds_count{kind="RFTJob",outcome="done"}': "80x120",
        },
        fires=(), quiet=("60m",),
    ),
]  # fmt: skip


def rule_of(alert: str) -> dict[str, Any]:
    return next(rule for rule in RULES if rule["alert"] == alert)


def expected(case: Case) -> dict[str, Any]:
    """The firing alert, with its texts for these labels."""
    rule = rule_of(case.alert)

    def filled(text: str) -> str:
        return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda label: case.labels[label[1]], text)

    return {
        "exp_labels": {**case.labels, **rule["labels"]},
        "exp_annotations": {name: filled(text) for name, text in rule["annotations"].items()},
    }


def promtool_test(case: Case) -> dict[str, Any]:
    moments = [(moment, [expected(case)]) for moment in case.fires] + [(moment, []) for moment in case.quiet]
    return {
        "name": f"{case.alert} {case.what}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {"eval_time": moment, "alertname": case.alert, "exp_alerts": alerts} for moment, alerts in moments
        ],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.what}")
def test_it_fires_and_resolves(promtool: Path, case: Case, tmp_path: Path):
    file = tmp_path / "test.yaml"
    document = {"rule_files": [str(FILE)], "evaluation_interval": "1m", "tests": [promtool_test(case)]}
    file.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_and_to_resolve():
    def minutes(moment: str) -> int:
        return int(moment.removesuffix("m"))

    proven = {
        case.alert for case in CASES if case.fires and max(map(minutes, case.quiet)) > max(map(minutes, case.fires))
    }
    assert proven == {rule["alert"] for rule in RULES}


def test_prometheus_takes_the_rules(promtool: Path):
    # Two rules of one alert differ in their patience.
    done = subprocess.run([promtool, "check", "rules", "--lint=none", FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted({rule["alert"] for rule in RULES})
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
