"""The operator with a fault: plans of objects of this name fail for as long as there is a file; run FILE NAME."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rft_operator import resources
from rft_operator.kube.plan import Plan
from rft_operator.reconcile.resource import Resource
from rft_operator.settings import Settings


def faulty(resource: Resource[Any], name: str, switch: Path) -> Resource[Any]:
    """The same resource with the fault."""

    def plan(world: Any, settings: Settings) -> Plan:
        planned = resource.plan(world, settings)
        if switch.exists() and any(desired.object["metadata"]["name"].startswith(name) for desired in planned.desired):
            raise RuntimeError("an internal of the program")
        return planned

    return replace(resource, plan=plan)


if __name__ == "__main__":
    _, file, name, *arguments = sys.argv
    resources.RESOURCES = tuple(faulty(resource, name, Path(file)) for resource in resources.RESOURCES)
    from rft_operator.main import main

    sys.exit(main(arguments))
