"""A vLLM server's adapters: which there are, load, unload."""

from __future__ import annotations

import logging

import httpx

log = logging.getLogger(__name__)

LIST_SECONDS = 5.0
LOAD_SECONDS = 300.0


class ServerAway(Exception):
    """The server does not answer; it may still start, or start again."""


class ServerRefused(Exception):
    """The server does not do what it was asked; the text is its own."""


class Server:
    """A client of one server, for any number of threads."""

    def __init__(self, url: str):
        self._client = httpx.Client(base_url=url, timeout=LIST_SECONDS, trust_env=False)

    def adapters(self) -> dict[str, str]:
        """The adapters that it serves, with the folder that each was loaded from.

        Raises:
            ServerAway: when it does not tell.
        """
        try:
            answer = self._client.get("/v1/models")
            answer.raise_for_status()
            # The base model has no parent.
            return {model["id"]: model["root"] for model in answer.json()["data"] if model.get("parent") is not None}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ServerAway(f"{type(error).__name__}: {error}".rstrip(": ")) from error

    def load(self, name: str, folder: str, replaced: str | None) -> None:
        """Serves an adapter under a name.

        A name that is taken is freed first: vLLM's `load_inplace` would leave no gap of milliseconds, but has it read
        the adapter's files again at every step from then on (vLLM issue 33791).

        Args:
            name: the adapter's name.
            folder: holds the adapter, also for the server.
            replaced: the folder of what it serves under this name now; served again when the new one is refused.

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
        """Serves an adapter no longer, if it does.

        Raises:
            ServerAway: when it does not answer.
            ServerRefused: when it keeps the adapter.
        """
        self._post("/v1/unload_lora_adapter", {"lora_name": name}, missing_is_fine=True)

    def _load(self, name: str, folder: str) -> None:
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    def _post(self, path: str, body: dict[str, str], missing_is_fine: bool = False) -> None:
        try:
            answer = self._client.post(path, json=body, timeout=LOAD_SECONDS)
        except httpx.ReadTimeout as error:
            raise ServerRefused(f"the server has not answered {path} for {LOAD_SECONDS:.0f} s") from error
        except httpx.HTTPError as error:
            raise ServerAway(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        if answer.is_success or (missing_is_fine and answer.status_code == httpx.codes.NOT_FOUND):
            return
        raise ServerRefused(f"the server refuses it (HTTP {answer.status_code}): {_message(answer)}")


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text.strip()
