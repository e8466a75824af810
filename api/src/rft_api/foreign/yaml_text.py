"""Parses foreign YAML: of a limited size and depth, and with aliases that cannot multiply it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from rft_api.foreign.sizes import format_size

MAXIMUM_BYTES = 8 << 20
"""Largest size of a file with manifests. Kubernetes takes no object of more than about 1 MiB."""
MAXIMUM_NESTING = 100
MAXIMUM_NODES = 200_000
"""Largest number of values of a text, and of a document after its aliases have been followed."""
_TEXT_OF_A_VALUE = 100
"""Characters of a text that count as one more value."""
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
"""What kubectl's YAML takes for a floating-point number, 1e-5 among them, which PyYAML takes for a text."""


def take_numbers_as_kubectl(yaml_class: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    """Have a loader read 1e-5 as a number, as kubectl does, or have a dumper write the text "1e-5" in quotes."""
    yaml_class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class _Loader(yaml.SafeLoader):
    """Composes nodes to a limited depth, and refuses a mapping that has a key twice, as kubectl does.

    PyYAML takes the last of several values of a key, and follows values that are nested until Python's stack is full.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        self._nodes += 1
        if self._nodes > MAXIMUM_NODES:  # each takes some 500 bytes of memory, and as little as two of the text
            raise ValueError(f"has more than {MAXIMUM_NODES:,} values")
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
        # A tag can call anything a mapping.
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (LookupError, AttributeError):
            # PyYAML's constructors expect what their patterns match, but a tag may stand before anything.
            fault = f"what follows the tag {node.tag} is no such value"
            raise yaml.constructor.ConstructorError(None, None, fault, node.start_mark) from None

    def construct_integer(self, node: yaml.ScalarNode) -> int | str:
        """Return an integer; what YAML 1.1 takes for one in base 60, such as 1:30, is a text for kubectl."""
        if ":" in node.value:
            return str(self.construct_scalar(node))
        value: int = self.construct_yaml_int(node)
        if value.bit_length() > 64:
            line = node.start_mark.line + 1
            raise ValueError(f"line {line} has an integer of more than 64 bits; write it in quotes if it is a text")
        return value

    def construct_float(self, node: yaml.ScalarNode) -> float | str:
        """Return a floating-point number; one in base 60 is a text, as for integers."""
        if ":" in node.value:
            return str(self.construct_scalar(node))
        value: float = self.construct_yaml_float(node)
        return value

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Return a text, as which kubectl reads a single =."""
        return str(self.construct_scalar(node))


take_numbers_as_kubectl(_Loader)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_float)
_Loader.add_constructor("tag:yaml.org,2002:value", _Loader.construct_text)


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
            size, levels = _size(node, {})
            if size > MAXIMUM_NODES:
                raise ValueError(f"has aliases that make more than {MAXIMUM_NODES:,} values of it")
            if levels > MAXIMUM_NESTING:
                raise ValueError(f"has aliases that nest values more than {MAXIMUM_NESTING} levels deep")
            try:
                yield node, loader.construct_document(node)
            except ValueError as error:
                # PyYAML passes on what the constructors of dates and numbers raise.
                raise ValueError(f"is not valid YAML: {error}") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of values of a node, and its levels, with everything that its aliases stand for.

    Long texts count as more than one value.

    Args:
        node: the node.
        sizes: the results for nodes that have been counted, 0 and 0 for those that are being counted.

    Raises:
        ValueError: when an alias stands for a value that it is part of.
    """
    result = sizes.get(id(node))
    if result == (0, 0):
        raise ValueError(f"has an alias of a value that it is part of (line {node.start_mark.line + 1})")
    if result is None:
        sizes[id(node)] = (0, 0)
        children: list[yaml.Node] = []
        size, levels = 1, 0
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        else:
            size += len(node.value) // _TEXT_OF_A_VALUE
        for child in children:
            more, deep = _size(child, sizes)
            size, levels = size + more, max(levels, deep)
        result = sizes[id(node)] = (size, levels + 1)
    return result
