"""Folders of key documents, as one machine keeps them: YAML files with Secrets, of which each may be wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from rft_api.foreign.files import read_file
from rft_api.foreign.text import one_line
from rft_api.foreign.yaml_text import parse_documents
from rft_api.gateway_key import InvalidKey, Key, merge_keys, parse_secret

MAXIMUM_BYTES: Final = 1 << 20
"""Largest size of a file with keys; a key has some 500 bytes."""


@dataclass(frozen=True)
class KeyFile:
    """What a file holds."""

    path: Path
    """The file."""
    keys: tuple[Key, ...] = ()
    """The keys of its valid documents, in their order."""
    errors: tuple[str, ...] = ()
    """A sentence for each document, or rest of the file, that opens nothing; it names file, line and field."""
    documents: int = 0
    """Number of documents that could be read as YAML."""


def key_paths(folder: Path) -> list[Path]:
    """Return the files of a folder that may hold keys, by name.

    Raises:
        OSError: when the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.name[0] != ".")


def read_key_file(path: Path) -> KeyFile:
    """Read the keys of a file. A document that is wrong leaves the others of the file as they are."""
    keys: list[Key] = []
    errors: list[str] = []
    documents = 0
    try:
        for node, document in parse_documents(read_file(path, MAXIMUM_BYTES).decode("utf-8-sig")):
            if document is None:
                continue
            documents += 1
            try:
                keys.append(parse_secret(document))
            except InvalidKey as error:
                errors.append(_sentence(f"{path}:{node.start_mark.line + 1}", str(error)))
    except OSError as error:
        errors.append(_sentence(path, error.strerror or str(error)))
    except UnicodeDecodeError:
        errors.append(_sentence(path, "is not UTF-8 text"))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        errors.append(_sentence(f"{path}{line}", f"is not valid YAML: {error.problem or error.context}"))
    except (yaml.YAMLError, ValueError) as error:
        errors.append(_sentence(path, str(error)))
    return KeyFile(path, tuple(keys), tuple(errors), documents)


def read_key_folder(folder: Path) -> list[KeyFile]:
    """Read all files of a folder.

    Raises:
        OSError: when the folder cannot be read.
    """
    return [read_key_file(path) for path in key_paths(folder)]


def merge_key_files(files: Iterable[KeyFile]) -> tuple[list[Key], list[str]]:
    """Return the keys of files, and a sentence for each document that opens nothing; see `merge_keys`."""
    files = list(files)
    keys, errors = merge_keys((str(file.path), key) for file in files for key in file.keys)
    return keys, [*(error for file in files for error in file.errors), *errors]


def _sentence(place: Path | str, problem: str) -> str:
    return one_line(f"{place}: {problem}")
