"""The command line starts fast: what only some commands need is imported by those."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "matplotlib", "pyarrow", "numpy")


def imported(code: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after the code."""
    script = f"import sys\n{code}\nprint('LOADED', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import rft_cli.main",
        "import rft_cli.check, rft_cli.run, rft_cli.score, rft_cli.report",
        "from typer.testing import CliRunner; from rft_cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert not imported(code) & set(HEAVY)


def test_help_does_not_even_import_pydantic():
    assert not imported("import rft_cli.main") & {"pydantic", "httpx", "yaml"}
