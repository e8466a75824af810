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


def test_a_gateway_without_a_ledger_does_not_start(monkeypatch, capsys):
    monkeypatch.delenv(LEDGER_VARIABLE, raising=False)
    with pytest.raises(SystemExit):
        read_settings(FILES)
    assert "--ledger" in capsys.readouterr().err
