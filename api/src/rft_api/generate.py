"""Generates files from the models: the CRDs and the references of manifests, metrics and builtin rewards.

`python -m rft_api.generate ROOT`
"""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import yaml

from rft_api.builtin_table import BUILTINS, options_key
from rft_api.crd import build_crds, messages
from rft_api.foreign.yaml_text import take_numbers_as_kubectl
from rft_api.metrics import (
    RUN_SERIES,
    Healthy,
    Metrics,
    ShadowScores,
    TrainMetrics,
    ValidationMetrics,
    WarmupMetrics,
    metadata_of,
    served_fields,
)
from rft_api.model import Json

_HEADER = "# Generated from rft_api by `make generate`; edit the models there.\n"

_REFERENCE_TITLE = """# Manifest reference

Generated from the models by `make generate`. Fields marked **required** have no default. Rates and weights are strings
in quotes, because floating-point numbers do not survive a round trip through the Kubernetes API.
"""

_METRICS_TITLE = """# Metrics reference

Generated from the fields of the models by `make generate`. `metrics.jsonl` has one line per optimizer step
(`"split": "train"`) and one per validation (`"split": "validation"`). The trainer serves the same numbers for
Prometheus, labelled with `namespace` and `job` beside the labels that stand here. What a curve that looks wrong means,
and what to do, is in [reading the curves](../curves.md).
"""

_BUILTINS_TITLE = """# Builtin rewards

Generated from the models by `make generate`. [Writing a reward](../rewards.md#builtin) says how each of them reads
completions and reference answers. `rft rewards init NAME` writes the example to a manifest.

| Name | Scores |
|---|---|
"""


def generated_files() -> dict[str, str]:
    """Return the contents of every generated file, by its path in the repository."""
    crds = build_crds()
    files = {f"crds/{name}": _HEADER + dump_yaml(crd) for name, crd in crds.items()}
    files["docs/reference/manifests.md"] = _reference(list(crds.values()))
    files["docs/reference/metrics.md"] = _metrics_reference()
    files["docs/reference/builtins.md"] = _builtins_page(crds["rewardfunctions.yaml"])
    return files


def dump_yaml(document: Json) -> str:
    """Return a document as YAML that versions 1.1 and 1.2 of YAML read alike."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    take_numbers_as_kubectl(Dumper)
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)


def _reference(crds: list[Json]) -> str:
    parts = [_REFERENCE_TITLE]
    for crd in crds:
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        parts.append(f"\n## {crd['spec']['names']['kind']}\n\n{schema['description']}\n")
        if "x-kubernetes-validations" in schema:
            names = [message for rule in schema["x-kubernetes-validations"] for message in messages(rule)]
            parts.append("\nRules for the name:\n\n" + "".join(f"- `metadata.name`: {message}\n" for message in names))
        for section in ("spec", "status"):
            parts.append(f"\n### {crd['spec']['names']['kind']} {section}\n\n| field | type | default | meaning |\n")
            parts.append("|---|---|---|---|\n")
            parts.extend(_rows(schema["properties"][section], section))
            rules = list(_rules(schema["properties"][section], section))
            if rules:
                parts.append("\nRules across fields:\n\n")
                parts.extend(f"- `{path}`: {message}\n" for path, message in rules)
    return "".join(parts)


def _builtins_page(crd: Json) -> str:
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    options = spec["properties"]["builtin"]["properties"]
    parts = [_BUILTINS_TITLE, *(f"| `{name}` | {builtin.summary} |\n" for name, builtin in BUILTINS.items())]
    for name, builtin in BUILTINS.items():
        key = options_key(name)
        parts.append(f"\n## {name}\n\n| Option | Type | Default | Meaning |\n|---|---|---|---|\n")
        parts.extend(_rows(options[key], key))
        parts.append(f"\n```yaml\nspec:\n{indent(dedent(builtin.example).strip(), '  ')}\n```\n")
    return "".join(parts)


def _rows(schema: Json, path: str) -> list[str]:
    rows = []
    for name, field in schema.get("properties", {}).items():
        inner = field
        here = f"{path}.{name}"
        if field.get("type") == "array":
            inner, here = field["items"], f"{here}[]"
        meaning = field.get("description", "")
        ranges = [v["message"] for v in field.get("x-kubernetes-validations", []) if field.get("type") == "string"]
        if ranges:
            meaning += f" ({'; '.join(ranges)})"
        default = _default(name, field, schema)
        rows.append(f"| `{here}` | {_type(field)} | {default} | {meaning.replace('|', chr(92) + '|')} |\n")
        # What is named inside of an object with unknown fields is there for its rules.
        if not inner.get("x-kubernetes-preserve-unknown-fields"):
            rows.extend(_rows(inner, here))
    return rows


def _default(name: str, field: Json, parent: Json) -> str:
    if name in parent.get("required", []):
        return "**required**"
    default = field.get("default")
    if default in (None, [], {}) or isinstance(default, dict):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(field: Json) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    text = str(field.get("type", "any"))
    low, high = field.get("minimum"), field.get("maximum")
    if low is not None or high is not None:
        bounds = [f"from {low}" if low is not None else "", f"to {high}" if high is not None else ""]
        text += f" {' '.join(bound for bound in bounds if bound)}"
    return text


def _rules(schema: Json, path: str) -> list[tuple[str, str]]:
    rules = []
    if schema.get("type") in ("object", "array"):
        validations = schema.get("x-kubernetes-validations", [])
        rules += [(path, message) for validation in validations for message in messages(validation)]
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return rules
    for name, field in schema.get("properties", {}).items():
        rules += _rules(field, f"{path}.{name}")
    if "items" in schema:
        rules += _rules(schema["items"], f"{path}[]")
    return rules


def _metrics_reference() -> str:
    parts = [_METRICS_TITLE]
    header = "| `metrics.jsonl` | Prometheus | What it is | Healthy |\n|---|---|---|---|\n"
    parts_of_runs: tuple[tuple[str, type[Metrics]], ...] = (
        ("a step", TrainMetrics),
        ("a validation", ValidationMetrics),
        ("a step of a warm-up alone", WarmupMetrics),
    )
    for title, model in parts_of_runs:
        parts.append(f"\n## The metrics of {title}\n\n{header}")
        for name, field in model.model_fields.items():
            healthy = metadata_of(model, name, Healthy)
            cells = [f"`{field.alias or name}`", _series(model, name), str(field.description)]
            parts.append(_row(*cells, healthy.text if healthy else ""))
    parts.append("\n## The metrics of a run\n\n| Prometheus | What it is | Healthy |\n|---|---|---|\n")
    parts.extend(_row(f"`{served.series}`", served.help, healthy.text) for served, healthy in RUN_SERIES.items())
    return "".join(parts)


def _series(model: type[Metrics], name: str) -> str:
    """Return the series of a field, with their labels, as queries name them."""
    fields = dict(served_fields(ShadowScores if name == "shadows" else model))
    texts = []
    for served in fields.values() if name == "shadows" else [fields[name]] if name in fields else []:
        labels = [f'{label}="{value}"' for label, value in served.labels]
        labels += [served.key] if served.key else []
        labels += [f'split="{model.model_fields["split"].default}"'] if served.by_split else []
        texts.append(f"`{served.series}{{{', '.join(labels)}}}`" if labels else f"`{served.series}`")
    return ", ".join(texts)


def _row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |\n"


def write_files(root: Path, files: dict[str, str]) -> None:
    """Write the files whose contents have changed, by their path below `root`, and print their names."""
    for name, content in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text(encoding="utf-8") != content:
            target.write_text(content, encoding="utf-8")
            print(f"wrote {name}")


if __name__ == "__main__":
    write_files(Path(sys.argv[1]), generated_files())
