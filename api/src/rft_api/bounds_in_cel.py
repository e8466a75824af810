"""The checks of `bounds` in CEL, which an API server evaluates before it stores a manifest.

Every expression returns a list of messages, as the functions of `bounds` yield violations, with the same texts and in
the same order. CEL has no local names, so `[value].map(name, ...)[0]` stands for one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from textwrap import indent

from rft_api.bounds import (
    ANY,
    DENIED,
    EGRESS_PLACES,
    FREE_VARIABLES,
    LEAVE_OUT,
    MAXIMUM_SOURCES,
    NAMED_OBJECTS,
    NO_KEY,
    NO_TEXT,
    NODE_ROLES,
    NOT_ALLOWED,
    POD_PLACES,
    TOO_MANY_SOURCES,
    VARIABLES,
    WEAKENING_ANNOTATIONS,
    WEAKENS,
    Bounds,
    EgressBounds,
    NamedObject,
)
from rft_api.model import Location, camel, format_location
from rft_api.networks import CIDR_SHAPE


@dataclass(frozen=True)
class CelCheck:
    """A check of a field of a manifest."""

    name: str
    """Name of a variable for the messages."""
    place: str
    """The field, as people write it: `spec.pod.image`."""
    unchanged: str
    """An expression for whether an update leaves the field as it was. An object may exceed the bounds because they
    were set after it was created; it must be possible to edit its other fields and its finalizers."""
    messages: str
    """An expression for what exceeds the bounds: a list of texts, none when nothing does."""


@dataclass(frozen=True)
class CelChecks:
    """The checks of manifests of a kind."""

    variables: dict[str, str]
    """Variables that the checks read, beside those of the bounds, with their expressions."""
    checks: list[CelCheck]
    """The checks, in the order in which the operator names violations."""


def bound_variables() -> dict[str, tuple[str, ...]]:
    """Return the variables with lists of the bounds that all checks read, and where each list stands in the bounds."""
    names = {camel(name): (camel(name),) for name in Bounds.model_fields if name != "egress"}
    return names | {camel(name): ("egress", camel(name)) for name in EgressBounds.model_fields}


def hint_variables() -> dict[str, str]:
    """Return the variables with what to do about a value that is in none of a list of the bounds."""
    return {
        f"{name}Hint": f"""variables.{name}.size() == 0 || "{ANY}" in variables.{name}
? "{LEAVE_OUT}" : "use " + variables.{name}.join(", ")"""
        for name in bound_variables()
        if name != "denied"
    }


def checks_of_kind(kind: str) -> CelChecks:
    """Return the checks of manifests of a kind."""
    place = POD_PLACES[kind]
    variables = {"pod": _value("object", place, "{}"), "podBefore": _before(place, "{}")}
    pod_checks = {
        "image": _image_messages(),
        **{camel(named.field): _name_messages(named) for named in NAMED_OBJECTS},
        "tolerations": _item_messages("tolerations", _TOLERATION),
        "env": _item_messages("env", _variable_message()),
        "volumes": _item_messages("volumes", _volume_message()),
        "annotations": _annotation_messages(),
    }
    checks = [
        CelCheck(
            name=f"{field}Messages",
            place=format_location((*place, field)),
            unchanged=f"variables.pod.?{field} == variables.podBefore.?{field}",
            messages=messages.replace("PLACE", format_location((*place, field))),
        )
        for field, messages in pod_checks.items()
    ]
    if kind in EGRESS_PLACES:
        place = EGRESS_PLACES[kind]
        variables |= {"egress": _value("object", place, "[]"), "egressBefore": _before(place, "[]")}
        messages = _EGRESS.replace("PLACE", format_location(place))
        unchanged = "variables.egress == variables.egressBefore"
        checks.append(CelCheck("egressMessages", format_location(place), unchanged, messages))
    return CelChecks(variables, checks)


def _value(variable: str, place: Location, default: str) -> str:
    # `dyn`, because the type of an object is that of the schema, which does not say what is in free-form fields.
    return f"dyn({variable}){''.join(f'.?{part}' for part in place)}.orValue({default})"


def _before(place: Location, default: str) -> str:
    return f"oldObject == null ? dyn({default}) : {_value('oldObject', place, default)}"


def _text(template: str, **expressions: str) -> str:
    """Return an expression for a message, from its template and an expression for each name in braces."""
    parts = re.split(r"\{(\w+)\}", template)
    return " + ".join(expressions[part] if index % 2 else json.dumps(part) for index, part in enumerate(parts) if part)


def _is_listed(value: str, bound: str) -> str:
    return f'("{ANY}" in variables.{bound} || {value} in variables.{bound})'


def _refusal(value: str, bound: str) -> str:
    """Return an expression for the message that a value is in none of a list of the bounds."""
    variable = bound.rpartition(".")[2]
    return _text(NOT_ALLOWED.replace("{bound}", bound), value=value, hint=f"variables.{variable}Hint")


def _is_foreign_image(image: str) -> str:
    """Return an expression for whether an address of an image begins with none of the prefixes."""
    return f"""!("{ANY}" in variables.imagePrefixes) && ![
  !{image}.contains("/") ? "docker.io/library/" + {image}
  : {image}.substring(0, {image}.indexOf("/")).matches("[.:]|^localhost$") ? {image} : "docker.io/" + {image}
].exists(whole, variables.imagePrefixes.exists(prefix,
  whole == prefix || whole.startsWith(prefix + "/")
  || (prefix.contains("/") && (whole.startsWith(prefix + ":") || whole.startsWith(prefix + "@")))
))"""


def _image_messages() -> str:
    return f"""variables.pod.?image.hasValue() && {_is_foreign_image("variables.pod.image")}
? ["PLACE: " + {_refusal("variables.pod.image", "imagePrefixes")}] : []"""


def _name_messages(named: NamedObject) -> str:
    field, bound = camel(named.field), camel(named.bound)
    free = json.dumps(["", named.by_default] if named.by_default else [""])
    return f"""variables.pod.?{field}.hasValue()
&& !(variables.pod.{field} in {free} || {_is_listed(f"variables.pod.{field}", bound)})
? ["PLACE: " + {_refusal(f"variables.pod.{field}", bound)}] : []"""


def _item_messages(field: str, message: str) -> str:
    """Return an expression for the messages of a list, from one for the message of an `item`, empty if it is right."""
    return _messages(f"variables.pod.?{field}.orValue([])", f"variables.pod.{field}", message)


def _messages(items: str, present_items: str, message: str) -> str:
    place = f'"PLACE[" + string({present_items}.indexOf(item)) + "]'
    lines = indent(message.replace("ITEM_PLACE", place), "  ")
    return f'{items}.map(item,\n{lines}\n).filter(message, message != "")'


_TOLERATION = f"""[has(item.key) && item.key != null ? item.key : ""].map(key,
  type(key) != string ? ITEM_PLACE.key: {NO_TEXT}"
  : key == "" ? ("" in variables.tolerations ? "" : ITEM_PLACE: {NO_KEY}")
  : key in variables.tolerations || ("{ANY}" in variables.tolerations && !key.startsWith("{NODE_ROLES}")) ? ""
  : ITEM_PLACE.key: " + {_refusal("key", "tolerations")}
)[0]"""


def _variable_message() -> str:
    kind = f"({json.dumps(VARIABLES)}[?kind].orValue(kind))"
    return f"""[
  has(item.valueFrom) && type(item.valueFrom) == map
  ? item.valueFrom.filter(kind, !(kind in {json.dumps(FREE_VARIABLES)}) && !{_is_listed(kind, "volumes")})
  : []
].map(kinds,
  kinds.size() == 0 ? "" : ITEM_PLACE.valueFrom: " + {_first_refusal("kinds", "volumes")}
)[0]"""


def _first_refusal(values: str, bound: str) -> str:
    """Return an expression for the message about the first of several texts in the order of the alphabet."""
    return _refusal(f"{values}.min()", bound)


def _volume_message() -> str:
    inner = f"(type(source) == map ? source.filter(kind, !{_is_listed('kind', 'volumes')}) : [])"
    count = _text(TOO_MANY_SOURCES, count="string(sources.size())")
    sources, reference = "item.projected.sources", "item.image.reference"
    return f"""(
  [item.filter(kind, !(kind in ["name", "projected"]) && !{_is_listed("kind", "volumes")})].map(kinds,
    kinds.size() == 0 ? [] : [ITEM_PLACE: " + {_first_refusal("kinds", "volumes")}]
  )[0]
  + [
    has(item.projected) && type(item.projected) == map && has({sources}) && type({sources}) == list ? {sources} : []
  ].map(sources,
    sources.size() > {MAXIMUM_SOURCES} ? [ITEM_PLACE.projected.sources: " + {count}]
    : sources.filter(source, {inner}.size() > 0).map(source,
      ITEM_PLACE.projected.sources[" + string(sources.indexOf(source)) + "]: "
      + [{inner}].map(kinds, {_first_refusal("kinds", "volumes")})[0])
  )[0]
  + (has(item.image) && type(item.image) == map && has({reference}) && type({reference}) == string
    && {indent(_is_foreign_image(reference), "    ").lstrip()}
    ? [ITEM_PLACE.image.reference: " + {_refusal(reference, "imagePrefixes")}] : [])
  + [""]
)[0]"""


def _annotation_messages() -> str:
    weakening = " || ".join(f'name.startsWith("{prefix}")' for prefix in WEAKENING_ANNOTATIONS)
    return f"""[variables.pod.?annotations.orValue({{}}).filter(name, {weakening})].map(names,
  names.size() == 0 ? [] : ["PLACE: " + {_text(WEAKENS, value="names.min()")}]
)[0]"""


_EGRESS = _messages(
    "variables.egress",
    "variables.egress",
    f"""!isCIDR(item.cidr) || cidr(item.cidr) != cidr(item.cidr).masked()
? ITEM_PLACE.cidr: {CIDR_SHAPE}, with no bits set behind the prefix"
: variables.denied.exists(range, cidr(range).containsCIDR(item.cidr))
? ITEM_PLACE.cidr: " + {_text(DENIED, value="item.cidr")}
: variables.allowed.exists(range, cidr(range).containsCIDR(item.cidr))
? ""
: ITEM_PLACE.cidr: " + {_refusal("item.cidr", "egress.allowed")}""",
)
