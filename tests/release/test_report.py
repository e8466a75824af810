"""tools/report.sh: what `make` says while a command is silent."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from support.patience import PATIENCE_SECONDS, wait_until

SCRIPT = Path(__file__).parents[2] / "tools/report.sh"


def test_the_time_left_is_estimated_from_the_last_time_and_unknown_the_first_time(tmp_path):
    notes = tmp_path / "notes"

    def lines(holds) -> list[str]:
        """Run a command that ends when something holds of its output; return the lines."""
        output, end = tmp_path / "output", tmp_path / "end"
        end.unlink(missing_ok=True)
        environment = {**os.environ, "REPORT_SECONDS": "0.1", "REPORT_NOTES": str(notes)}
        command = [SCRIPT, "Installing packages", "bash", "-c", f"until [ -e {end} ]; do sleep 0.1; done"]
        with output.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            wait_until(lambda: holds(output.read_text()), output.read_text)
            end.touch()
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
        return output.read_text().splitlines()

    first = lines(lambda text: "Installing packages: 1 s" in text)
    assert [line for line in first if not re.fullmatch(r"Installing packages: \d+ s", line)] == []
    seconds, megabytes = map(int, (notes / "Installing_packages").read_text().split())
    assert (seconds >= 1, megabytes) == (True, 0)
    (notes / "Installing_packages").write_text("1000 0\n")
    second = lines(lambda text: text.count("\n") >= 2)
    assert re.fullmatch(r"Installing packages: \d+ s, about (9\d\d|1000) s left", second[0])
