"""Manifests of RewardFunctions in YAML, line by line as users write them."""

from __future__ import annotations

from textwrap import indent

_HANDLER = """\
def lambda_handler(event, context):
    return [score(sample) for sample in event]

def score(sample):
    text = sample["messages"][-1]["content"]
"""


def reward_manifest(name: str, spec: str) -> str:
    """A RewardFunction.

    Args:
        name: its name.
        spec: its spec, as YAML without indentation.
    """
    head = f"apiVersion: rft.dev/v1alpha1\nkind: RewardFunction\nmetadata: {{name: {name}}}\nspec:\n"
    return head + indent(spec, "  ")


def python_reward(name: str, code: str, options: str = "") -> str:
    """A RewardFunction in Python.

    Args:
        name: its name.
        code: the code, with its handler.
        options: further fields of `python`, as YAML without indentation.
    """
    return reward_manifest(name, "python:\n" + indent(f"{options}source: |\n{indent(code, '  ')}", "  "))


def sample_reward(name: str, lines: str, options: str = "") -> str:
    """A RewardFunction in Python that scores each sample by itself.

    Args:
        name: its name.
        lines: the code that scores a `sample` whose completion is `text`, and returns its row.
        options: as for `python_reward`.
    """
    return python_reward(name, _HANDLER + indent(lines, "    "), options)


def config_map(name: str, key: str, content: str) -> str:
    """A ConfigMap with one file."""
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  {key}: |\n{indent(content, '    ')}"
