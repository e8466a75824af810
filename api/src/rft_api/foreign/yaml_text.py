"""Parses foreign YAML: of a limited size and depth, and with aliases that cannot multiply it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from rft_api.foreign.sizes import format_size

MAXIMUM_BYTES = 8 << 20
"""Largest size of a file with manifests. Kubernetes takes no object of more than about 1 MiB."""
MAXIMUM_NESTING = 100
MAXIMUM_NODES = 500_000
"""Largest number of values of a document after its aliases have been followed."""
_TEXT_OF_A_VALUE = 100
"""Characters of a text that count as one more value."""


class _Loader(yaml.SafeLoader):
    """Composes nodes to a limited depth, and refuses a mapping that has a key twice, as kubectl does.

    PyYAML takes the last of several values of a key, and follows values that are nested until Python's stack is full.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > MAXIMUM_NESTING:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            assert event is not None  # a node is about to be composed
            line = event.start_mark.line + 1
            raise ValueError(f"is nested more than {MAXIMUM_NESTING} levels deep (line {line})")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_documents(text: str) -> Iterator[tuple[yaml.Node, Any]]:
    """Yield the documents of a text, each with its tree of nodes, which knows the lines.

    Raises:
        ValueError: when the text is too large, nested too deeply, or multiplied by its aliases.
        yaml.YAMLError: when it is no YAML.
    """
    if len(text) > MAXIMUM_BYTES:
        raise ValueError(f"is larger than {format_size(MAXIMUM_BYTES)}")
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # there is a document
            if _size(node, {}) > MAXIMUM_NODES:
                raise ValueError(f"has aliases that make more than {MAXIMUM_NODES:,} values of it")
            try:
                yield node, loader.construct_document(node)
            except ValueError as error:
                # PyYAML passes on what the constructors of dates and numbers raise.
                raise ValueError(f"is not valid YAML: {error}") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values of a node, with everything that its aliases stand for; long texts count more.

    Args:
        node: the node.
        sizes: the sizes of nodes that have been counted, 0 for those that are being counted.

    Raises:
        ValueError: when an alias stands for a value that it is part of.
    """
    size = sizes.get(id(node))
    if size == 0:
        raise ValueError(f"has an alias of a value that it is part of (line {node.start_mark.line + 1})")
    if size is None:
        sizes[id(node)] = 0
        children: list[yaml.Node] = []
        size = 1
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        else:
            size += len(node.value) // _TEXT_OF_A_VALUE
        size += sum(_size(child, sizes) for child in children)
        sizes[id(node)] = size
    return size
