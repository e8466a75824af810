"""Checks the JSON Schemas of manifests. The reward server reads them as draft 2020-12, without any other document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rft_api.model import Json

if TYPE_CHECKING:
    from referencing import Resource
    from referencing._core import Resolver


def schema_problems(schema: Json) -> Iterator[str]:
    """Yield the reasons why a schema cannot be used: it is not valid, or it refers to something that it does not
    contain.

    This needs the extra `schemas` of the package.
    """
    from jsonschema import Draft202012Validator, SchemaError
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        yield f"{error.json_path}: {error.message}"
        return
    except RecursionError:
        yield "nests too deeply"
        return
    except (OverflowError, ValueError) as error:  # a pattern that is too large for Python's regular expressions
        yield f"holds a pattern that is not a regular expression: {error}"
        return
    root = DRAFT202012.create_resource(schema)
    yield from _dangling(root, Registry().resolver_with_root(root))


def _dangling(resource: Resource[Json], resolver: Resolver[Json]) -> Iterator[str]:
    """Yield a message for each reference that cannot be resolved."""
    from referencing.exceptions import Unresolvable

    if isinstance(resource.contents, dict):
        for keyword in ("$ref", "$dynamicRef"):
            reference = resource.contents.get(keyword)
            if reference is not None:
                try:
                    resolver.lookup(reference)
                except Unresolvable:
                    yield f"refers to {reference}, which it does not contain"
    for inner in resource.subresources():
        yield from _dangling(inner, resolver.in_subresource(inner))
