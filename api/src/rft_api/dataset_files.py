"""Which files of a folder are its data: those of one split, as Hugging Face's datasets name them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

_TABLES = (".parquet", ".arrow")
_LINES = (".jsonl", ".ndjson")
_JSON = (*_LINES, ".json")
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings of compressed files. The reader unpacks gzip, and names the others, so that no rows are left out unsaid."""
_DESCRIPTIONS = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
"""Files that datasets writes beside the data."""
_SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""The words in names of files and folders that name a split, as Hugging Face's datasets knows them."""
_SPLIT = re.compile(rf"(?:^|[^a-z0-9])({'|'.join(_SPLITS)})(?:[^a-z0-9]|$)")
_SHARD = re.compile(rf"((?:{'|'.join(_SPLITS)})[\w.]*)-\d+-of-\d+\.")
"""The names of shards begin with that of their split, which may be longer than a word: train_sft-00000-of-00003."""


def is_data_file(name: str, split: str | None = None) -> bool:
    """Return whether a file below a folder can hold rows, of a split if one is named.

    Args:
        name: its name relative to the folder; "" is the address itself.
        split: as for `dataset_files`.
    """
    path = PurePosixPath(name)
    if path.name in _DESCRIPTIONS or any(part.startswith(".") for part in path.parts):
        return False
    if name and split is not None and _split_of(name) != _SPLITS.get(split, split):
        return False
    return not name or _ends_with(name, (*_JSON, *_TABLES))


def dataset_files(names: Iterable[str], split: str | None = None) -> list[str]:
    """Choose the files of one split, in the order of their names.

    Args:
        names: the names of all files of a folder, relative to it.
        split: train, validation or test, another word for one of them, or the split of shards such as train_sft; None
            when the folder has one split only.

    Raises:
        ValueError: when the files are not those of one split in one folder; the message follows the folder's name.
    """
    files = sorted(name for name in names if is_data_file(name))
    if not files:
        raise ValueError("holds no data: no file in JSONL, JSON, Parquet or Arrow")
    # JSON beside tables describes them, but lines of JSON are rows.
    tables = [name for name in files if _ends_with(name, _TABLES)]
    lines = [name for name in files if _ends_with(name, _LINES)]
    files = tables or files
    splits: dict[str, list[str]] = {}
    for name in files:
        splits.setdefault(_split_of(name), []).append(name)
    if split is None and len(splits) > 1:
        raise ValueError(
            f"holds several splits ({', '.join(sorted(splits))}); name one as split, or by its file or folder"
        )
    if split is not None and _SPLITS.get(split, split) not in splits:
        raise ValueError(f"has no split {split}; it has {', '.join(sorted(splits))}")
    chosen = files if split is None else splits[_SPLITS.get(split, split)]
    beside = [name for name in lines if tables and (split is None or _split_of(name) == _split_of(chosen[0]))]
    if beside:
        raise ValueError(
            f"has rows in tables ({chosen[0]}) and in JSONL ({beside[0]}), of which only one is read; name a file or "
            "folder of one kind, or move the other kind away"
        )
    folders = sorted({str(PurePosixPath(name).parent) for name in chosen})
    if len(folders) > 1:
        raise ValueError(f"has data in several folders ({', '.join(folders)}); name one of them")
    return chosen


def _ends_with(name: str, endings: tuple[str, ...]) -> bool:
    """Return whether a file has one of the endings, in letters of either case, also if it is compressed."""
    name = name.lower()
    for compression in _COMPRESSIONS:
        name = name.removesuffix(compression)
    return name.endswith(endings)


def _split_of(name: str) -> str:
    """Return the split that the name of a file, or else of the folders nearest to it, tells; train when none does."""
    path = PurePosixPath(name.lower())
    shard = _SHARD.match(path.name)
    if shard:
        return _SPLITS.get(shard.group(1), shard.group(1))
    for part in reversed(path.parts):
        match = _SPLIT.search(part)
        if match:
            return _SPLITS[match.group(1)]
    return "train"
