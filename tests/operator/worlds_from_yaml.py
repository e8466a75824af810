"""Reads a golden case: observed objects and probes in YAML, planned without a cluster."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rft_api.adapter_protocol import AdapterReport
from rft_api.bounds import Bounds
from rft_api.gateway_demand import DemandReport
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.progress import Progress
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.inference_endpoint.world import ServerAnswer, gather_inference_endpoint
from rft_operator.kube.plan import Plan
from rft_operator.kube.store import Key
from rft_operator.pods.demand import Demand, TotalDemand
from rft_operator.pods.late import awaited_pods, late_uids, newest_warning
from rft_operator.reconcile.routing import Router
from rft_operator.resources import RESOURCES
from rft_operator.reward_function.plan import plan_reward_function
from rft_operator.reward_function.world import gather_reward_function
from rft_operator.rft_job.gpu_memory import choose_gpu_memory
from rft_operator.rft_job.plan import awaits_gpu_memory, plan_rft_job
from rft_operator.rft_job.run_state import awaited_objects
from rft_operator.rft_job.world import gather_rft_job
from rft_operator.settings import Images, Settings

CASES = sorted(
    file
    for file in (Path(__file__).parent / "golden").glob("*.yaml")
    if not file.name.endswith((".plan.yaml", ".part.yaml"))
)
"""The files of the golden cases."""
FIRST_START = Path(__file__).parent / "golden" / "job-first-start.yaml"
"""A job, `quickstart`, that is about to start for the first time."""
SETTINGS = Settings(
    images=Images(
        trainer="example/trainer:1",
        reward="example/reward:1",
        server_cuda="example/server-cuda:1",
        server_cpu="example/server-cpu:1",
        loader="example/loader:1",
    ),
    namespace="rft-system",
    metrics_namespace="monitoring",
    bounds=Bounds(
        volumes=[*Bounds().volumes, "hostPath"], service_accounts=["cloud", "trainers"], priority_classes=["high"]
    ),
)
CASES = sorted(
    file
    for file in (Path(__file__).parent / "golden").glob("*.yaml")
    if not file.name.endswith((".plan.yaml", ".part.yaml"))
)
"""The files of the golden cases."""


class _Loader(yaml.SafeLoader):
    """Leaves moments as the text that the API server gives."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """YAML as the API server would give it in JSON."""
    return yaml.load(text, _Loader)


def router_of(objects: list[dict[str, Any]]) -> Router:
    """A router whose store holds the objects."""
    router = Router(RESOURCES)
    for obj in objects:
        router.store.put(obj["kind"], obj)
    return router


def plan_objects(of: str, objects: list[dict[str, Any]], now: str, **probes: Any) -> Plan:
    """The plan for the object `KIND/NAMESPACE/NAME` among these objects."""
    key, store, moment = Key(*of.split("/")), router_of(objects).store, datetime.fromisoformat(now)
    found, silent = store.get(key), probes.get("silentSeconds", 0.0)
    if key.kind == "RFTJob":
        progress = probes.get("progress")
        told = None if progress is None else Progress.model_validate(progress)
        world = gather_rft_job(store, key, RFTJob.model_validate(found), told, moment)
        if awaits_gpu_memory(world):
            spec = world.job.spec
            gpu_memory = choose_gpu_memory(probes.get("nodes", []), spec.compute, spec.queue_name is not None)
            world = replace(world, gpu_memory=gpu_memory)
        late = late_uids(awaited_objects(world.newest, world.pods), moment)
        return plan_rft_job(replace(world, warnings=_warnings(late, probes), silent_seconds=silent), SETTINGS)
    if key.kind == "RewardFunction":
        function = RewardFunction.model_validate(found)
        sources, readiness = probes.get("sources", {}), probes.get("readiness", {})
        token = probes.get("newToken", "")
        rewarding = gather_reward_function(store, key, function, sources, readiness, token, moment)
        late = late_uids(awaited_pods(rewarding.pods), moment)
        return plan_reward_function(
            replace(rewarding, warnings=_warnings(late, probes), silent_seconds=silent), SETTINGS
        )
    endpoint = InferenceEndpoint.model_validate(found)
    answers = {name: _answer(answer) for name, answer in probes.get("answers", {}).items()}
    serving = gather_inference_endpoint(store, key, endpoint, answers, moment)
    late = late_uids(awaited_pods(serving.own_pods), moment)
    told = {"warnings": _warnings(late, probes), "demand": _demand(key, probes.get("gateways"))}
    return plan_inference_endpoint(replace(serving, silent_seconds=silent, **told), SETTINGS)


def _demand(key: Key, gateways: dict[str, Any] | None) -> Demand | None:
    """What the gateways of a case are asked for; None without gateways."""
    if gateways is None:
        return None
    reports = [DemandReport.model_validate(report) for report in gateways["reports"]]
    return TotalDemand(reports, gateways.get("problem")).of(key.namespace, key.name)


def _warnings(uids: list[str], probes: dict[str, Any]) -> dict[str, str]:
    """What the events of a case say about the objects that are late, of which alone the operator reads them."""
    texts = {
        uid: newest_warning([event for event in probes.get("events", []) if event["regarding"]["uid"] == uid])
        for uid in uids
    }
    return {uid: text for uid, text in texts.items() if text is not None}


def _answer(given: dict[str, Any]) -> ServerAnswer:
    adapter = given.get("adapter")
    return ServerAnswer(given.get("problem"), None if adapter is None else AdapterReport(**adapter))


def read_case(file: Path) -> dict[str, Any]:
    """A case's file, its `objects` with those that it includes."""
    case: dict[str, Any] = read_yaml(file.read_text(encoding="utf-8"))
    included = [read_yaml((file.parent / name).read_text(encoding="utf-8")) for name in case.pop("include", [])]
    return {**case, "objects": [*included, *case["objects"]]}


def plan_case(file: Path) -> Plan:
    """The plan for a case's file."""
    case = read_case(file)
    return plan_objects(case.pop("of"), case.pop("objects"), case.pop("now"), **case)


def describe_plan(plan: Plan) -> dict[str, Any]:
    """A plan as YAML can hold it."""
    return {
        "desired": [
            {"why": desired.why, **({"once": True} if desired.create_only else {}), **desired.object}
            for desired in plan.desired
        ],
        "deletions": [
            {
                **{"api_version": d.kind.api_version, "kind": d.kind.name, "name": d.name, "uid": d.uid, "why": d.why},
                **({} if d.grace_seconds is None else {"graceSeconds": d.grace_seconds}),
            }
            for d in plan.deletions
        ],
        "status": plan.status,
        "events": [asdict(event) for event in plan.events],
        "requeueSeconds": plan.requeue_seconds,
    }
