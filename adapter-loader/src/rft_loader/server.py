"""Lists, loads and unloads the adapters of a vLLM server."""

from __future__ import annotations

import logging

from rft_api.foreign.http import Answer, ForeignAnswerError, LateAnswerError, ask_once
from rft_api.foreign.text import one_line

log = logging.getLogger(__name__)

LIST_SECONDS = 5.0
LOAD_SECONDS = 300.0
_LARGEST_ANSWER = 8 << 20
"""Bytes; the list has about 500 for each adapter."""
_NOT_FOUND = 404


class ServerAway(Exception):
    """The server does not answer; it may still be starting or restarting."""


class ServerRefused(Exception):
    """The server refuses a request.

    Args:
        message: the text is the server's.
        permanent: whether a retry cannot help until somebody changes something.
    """

    def __init__(self, message: str, permanent: bool = True):
        super().__init__(message)
        self.permanent = permanent


class Server:
    """A client of one server; any number of threads may use it."""

    def __init__(self, url: str):
        self._url = url.rstrip("/")

    def adapters(self) -> dict[str, str]:
        """Return the adapters that the server serves, with the folder that each was loaded from.

        Raises:
            ServerAway: when it does not answer, or its answer cannot be read.
        """
        try:
            answer = ask_once("GET", f"{self._url}/v1/models", LIST_SECONDS, _LARGEST_ANSWER)
            if answer.status != 200:
                raise ServerAway(f"it answers HTTP {answer.status}")
            # The base model has no parent.
            models = [model for model in answer.json()["data"] if model.get("parent") is not None]
            return {str(model["id"]): str(model["root"]) for model in models}
        except ForeignAnswerError as error:
            raise ServerAway(f"it {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerAway(f"its list of models cannot be read: {type(error).__name__}: {error}") from error

    def load(self, name: str, folder: str, replaced: str | None) -> None:
        """Make the server serve an adapter under a name.

        If the server already serves an adapter under the name, it is unloaded first, so that the name is missing for
        some milliseconds. vLLM's `load_inplace` would avoid this gap, but then vLLM reads the adapter's files again at
        every step (vLLM issue 33791).

        Args:
            name: the adapter's name.
            folder: the folder of the adapter; the server has it at the same path.
            replaced: the folder that it serves under this name now; loaded again when the server refuses the new one.

        Raises:
            ServerAway: when it does not answer.
            ServerRefused: when it does not take the adapter.
        """
        if replaced is not None:
            self.unload(name)
        try:
            self._load(name, folder)
        except ServerRefused:
            if replaced is not None:
                self._load(name, replaced)
            raise

    def unload(self, name: str) -> None:
        """Make the server stop serving an adapter; do nothing when it does not serve it.

        Raises:
            ServerAway: when it does not answer.
            ServerRefused: when it refuses to unload the adapter.
        """
        self._post("/v1/unload_lora_adapter", {"lora_name": name}, missing_is_fine=True)

    def _load(self, name: str, folder: str) -> None:
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    def _post(self, path: str, body: dict[str, str], missing_is_fine: bool = False) -> None:
        try:
            answer = ask_once("POST", f"{self._url}{path}", LOAD_SECONDS, _LARGEST_ANSWER, body)
        except LateAnswerError as error:
            message = f"the server has not answered {path} for {LOAD_SECONDS:.0f} s"
            raise ServerRefused(message, permanent=False) from error
        except ForeignAnswerError as error:
            raise ServerAway(f"it {error}") from error
        if 200 <= answer.status < 300 or (missing_is_fine and answer.status == _NOT_FOUND):
            return
        raise ServerRefused(f"the server refuses it (HTTP {answer.status}): {_message(answer)}")


def _message(answer: Answer) -> str:
    try:
        return one_line(str(answer.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return one_line(answer.text())
