"""The command line of the gateway, and what it takes from the environment."""

from __future__ import annotations

import pytest

from rft_gateway.settings import LEDGER_VARIABLE, read_settings

FILES = ("--routes", "routes.json", "--keys", "keys")
URL = "postgresql://gateway:secret@database/ledger"


def test_the_environment_names_the_ledger_unless_an_argument_does(monkeypatch):
    monkeypatch.setenv(LEDGER_VARIABLE, URL)
    assert read_settings(FILES).ledger == URL
    assert read_settings((*FILES, "--ledger", "ledger.db")).ledger == "ledger.db"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--files", "folder"), "--files: must be an absolute path"),
        (("--files", "s3://"), "--files: name a bucket"),
        (("--files", "s3://bucket/a"), "--files-staging: name a folder"),
        (("--files", "/a", "--files-staging", "/b"), "are for --files s3://"),
        (("--files-credentials", "/b"), "are for --files s3://"),
        (("--files", "/a", "--file-bytes", "9", "--files-staging-bytes", "17"), "must be twice --file-bytes"),
    ],
)
def test_wrong_settings_of_files_are_said(monkeypatch, capsys, arguments, message):
    monkeypatch.setenv(LEDGER_VARIABLE, URL)
    with pytest.raises(SystemExit):
        read_settings((*FILES, *arguments))
    assert message in capsys.readouterr().err
    assert read_settings(FILES).files is None


def test_a_gateway_without_a_ledger_does_not_start(monkeypatch, capsys):
    monkeypatch.delenv(LEDGER_VARIABLE, raising=False)
    with pytest.raises(SystemExit):
        read_settings(FILES)
    assert "--ledger" in capsys.readouterr().err


def test_the_fine_tuning_api_needs_a_cluster(monkeypatch, capsys):
    monkeypatch.setenv(LEDGER_VARIABLE, URL)
    with pytest.raises(SystemExit):
        read_settings((*FILES, "--fine-tuning"))
    assert "--fine-tuning needs --kubernetes" in capsys.readouterr().err
    assert read_settings(("--kubernetes", "--fine-tuning")).fine_tuning
    assert not read_settings(("--kubernetes",)).fine_tuning
