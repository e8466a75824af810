"""What files and code of others say is shown on a terminal in lines of its own, and what commands leave is removed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from rich.console import Console
from support.manifests import reward_manifest

from rft_api.foreign.text import printable
from rft_api.reward_protocol import Score
from rft_api.scratch import scratch_folder
from rft_cli import score
from rft_cli.texts import last_user_message, read_cell, shorten

CLI = Path(__file__).parents[2] / "cli" / "src" / "rft_cli"
MEBIBYTE = 1 << 20
HOSTILE = "x\r\n2026-01-01 ERROR forged\x1b[2J\x1b]0;title\x07 \u202e00.1$ \u2028 \x9b2J"
REWARD = reward_manifest("share", "builtin: {name: Numeric}\n")


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    "old_and_new",
    [
        ("share", '"\\u202egnp.exe"'),
        ("share", '"x\\n2026-01-01 ERROR forged\\e[2J"'),
        ("name: Numeric", '"\\u202eName\\r\\e[2J": Numeric'),
        ("Numeric", '"\\x9b2J\\u2028"'),
        ("RewardFunction", '"\\u2066Reward\\u2069"'),
        ("spec:", '"\\aspec":'),
        ("Numeric", '"' + "x" * 3_000_000 + '"'),
        ("rft.dev/v1alpha1", '"\\u200e\\u200f\\u061c"'),
    ],
)
def test_validate_shows_nothing_raw(rft, tmp_path, old_and_new):
    file = tmp_path / "reward.yaml"
    file.write_text(REWARD.replace(*old_and_new), encoding="utf-8")
    result = rft("validate", file)
    assert result.returncode == 10
    assert is_harmless(result.stdout + result.stderr)
    assert len(result.stderr) < 10_000


@pytest.mark.parametrize("digits", [400, 4300, 5000, 100_000])
def test_a_long_integer_is_called_what_it_is(rft, tmp_path, digits):
    manifest, data = tmp_path / "reward.yaml", tmp_path / "train.jsonl"
    manifest.write_text(REWARD.replace("Numeric", "9" * digits), encoding="utf-8")
    row = f'{{"messages": [{{"role": "user", "content": "q"}}], "reference_answer": {"9" * digits}}}'
    data.write_text(row + "\n", encoding="utf-8")
    for result in (rft("validate", manifest), rft("data", "check", data)):
        assert result.returncode in (10, 11)
        assert "UTF-8" not in result.stderr
        assert "integer" in result.stderr or "string" in result.stderr
        assert len(result.stderr) < 10_000


def test_a_problem_of_data_is_cut(rft, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text('{"messages": [{"role": "' + "x" * 3_000_000 + '\\u202e", "content": "q"}]}\n', encoding="utf-8")
    result = rft("data", "check", data)
    assert result.returncode == 11
    assert len(result.stderr) < 10_000
    assert is_harmless(result.stderr)


MARKUP = [
    "[/]", "[/x]", "[link=http://127.0.0.1/]x[/link]", "[bold red]x", "[conceal]x", ":smile:", "\\[x]",
    "[@click=quit]x",
]  # fmt: skip
"""Names that rich would take for markup; it raises an exception for the first two."""


def test_names_of_components_are_no_markup(rft, tmp_path):
    reward, completions = tmp_path / "reward.yaml", tmp_path / "c.jsonl"
    components = [{"name": name, "value": 1.0} for name in MARKUP]
    code = (
        "def lambda_handler(event, context):\n"
        "    return [{'id': sample['id'], 'aggregate_reward_score': 1.0, 'metrics_list': METRICS} for sample in event]"
    ).replace("METRICS", repr(components))
    manifest = REWARD.replace("  builtin: {name: Numeric}\n", f"  python: {{source: {json.dumps(code)}}}\n")
    reward.write_text(manifest, encoding="utf-8")
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    completions.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    result = rft("score", reward, completions, "--output", tmp_path / "[bold]out.jsonl")
    assert result.returncode == 0
    assert all(name[:12] in result.stdout for name in MARKUP)  # a long one takes several lines
    assert "[bold]out.jsonl" in result.stdout


@pytest.mark.parametrize("text", [MARKUP[1], MARKUP[2], HOSTILE])
def test_the_files_of_a_run_are_no_markup(rft, finished_run, text):
    document = json.loads(finished_run.summary.read_text(encoding="utf-8"))
    document["preflight"] = {**document["preflight"], "message": text}
    document["rewardHacking"] = {"suspected": True, "message": text}
    for stage in ("base", "tuned"):
        document[stage]["components"] = {text: 1.0}
    finished_run.summary.write_text(json.dumps(document), encoding="utf-8")
    result = rft("report", finished_run.path)
    assert result.returncode == 0
    assert is_harmless(result.stdout)
    # The third is in a table, where it may take several lines.
    assert result.stdout.count(text if text.isprintable() else "forged") >= 2


def test_all_consoles_take_texts_for_texts():
    sources = {path.name: path.read_text(encoding="utf-8") for path in CLI.glob("*.py")}
    assert {name for name, text in sources.items() if re.search(r"\bConsole\(", text)} == {"console.py"}
    assert not [name for name, text in sources.items() if "[/]" in text and name != "console.py"]


def shown_errors(error: str) -> str:
    output = io.StringIO()
    line = score.Line(1, {}, {"id": "1"})
    score._print_errors(Path("c.jsonl"), [line], [Score(id="1", error=error)], Console(file=output, width=100))
    return output.getvalue()


def test_errors_of_rewards_are_cut():
    assert len(shown_errors("x" * 5_000_000)) < 2000
    assert "4,999,000 more characters" in shown_errors("x" * 5_000_000)
    assert is_harmless(shown_errors(HOSTILE))
    assert "\\x1b[2J" in shown_errors(HOSTILE)


@pytest.mark.parametrize("text", [HOSTILE, "\x00", "\ud800", "\x7f" * 100, "a\u2029b", "\u202a" * 50])
def test_texts_of_several_lines_are_harmless(text):
    assert is_harmless(printable(text))
    assert is_harmless(shorten(text, 40))
    assert len(shorten(text, 40)) <= 43


def test_long_texts_are_shortened_in_bounded_memory():
    text = "\x1b" * (20 * MEBIBYTE)
    tracemalloc.start()
    try:
        assert shorten(text, 40) == "\\x1b" * 5 + " … " + "\\x1b" * 5
        assert printable(text, 10).endswith("(20,971,510 more characters)")
        assert tracemalloc.get_traced_memory()[1] < MEBIBYTE
    finally:
        tracemalloc.stop()
    assert shorten("a" * 40, 40) == "a" * 40
    assert shorten("a" * 41, 40) == "a" * 20 + " … " + "a" * 20
    assert shorten("", 40) == ""


@pytest.mark.parametrize("cell", ["[" * 100_000, "5", "{}", "[1, null]", "NaN", "", "9" * 5000, "[[[" * 300])
def test_cells_of_rollouts_may_hold_anything(cell):
    read_cell(cell)
    assert isinstance(last_user_message(cell), str)


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


HOLDER = """\
import sys, time
from rft_api.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "share.token").write_text("secret")
    print(folder, flush=True)
    time.sleep(600)
"""


def hold(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_command_leaves_is_removed_by_the_next(temporary):
    killed, left = hold(temporary)
    running, kept = hold(temporary)
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "share.token").exists()
        with scratch_folder() as folder:
            assert not left.exists(), "its token is gone"
            assert (kept / "share.token").exists(), "another command uses it"
            assert folder.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in temporary.iterdir()} == {kept.name}
    finally:
        running.kill()
        running.wait()


def test_what_only_looks_like_a_left_folder_stays(temporary):
    precious = temporary / "precious"
    precious.mkdir()
    (precious / ".lock").touch()
    (temporary / "rft-scratch-link").symlink_to(precious)
    new = temporary / "rft-scratch-new"  # another command is just making it
    new.mkdir()
    trap = temporary / "rft-scratch-trap"
    trap.mkdir()
    (trap / ".lock").symlink_to(precious / ".lock")
    os.mkfifo(temporary / "rft-scratch-fifo")
    with scratch_folder():
        pass
    assert (precious / ".lock").exists()
    assert new.exists()
    assert trap.exists()
