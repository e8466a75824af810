"""Bounds of what a manifest may ask of its pods and of the network, which whoever installs the operator sets.

The fields of `Bounds` are the chart's values under `bounds`, and the JSON of the operator's flag `--bounds`. The
chart's admission policies check the same in CEL: `bounds_in_cel` makes it from the names and messages of this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

from rft_api.foreign.text import one_line
from rft_api.model import Json, Location, Model, Violation, camel
from rft_api.networks import Cidr, Network, is_covered, networks_within, parse_cidr, with_embeddings
from rft_api.resource import PodOverrides
from rft_api.reward_function import Egress

ANY = "*"
"""Stands in a list for every value."""
SHOWN = 100
"""Largest number of characters of a value that a message shows."""
POD_PLACES: dict[str, Location] = {
    "RFTJob": ("spec", "compute", "pod"),
    "RewardFunction": ("spec", "pod"),
    "InferenceEndpoint": ("spec", "serving", "pod"),
}
"""Where the settings of pods stand, by the kind of the manifest."""
EGRESS_PLACES: dict[str, Location] = {"RewardFunction": ("spec", "egress")}
"""Where destinations stand, by the kind of the manifest."""
NODE_ROLES = "node-role.kubernetes.io/"
"""How the keys of the taints of control planes begin."""
VARIABLES = {"secretKeyRef": "secret", "configMapKeyRef": "configMap", "fieldRef": "downwardAPI"}
"""What an environment variable can be read from, and the kind of volume that gives the same."""
FREE_VARIABLES = ("resourceFieldRef", "fileKeyRef")
"""What an environment variable can be read from that gives nothing beyond the pod itself."""
WEAKENING_ANNOTATIONS = (
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
)
"""How annotations begin that weaken the isolation of a pod."""
MAXIMUM_SOURCES = 64
"""Largest number of sources of a projected volume, which the API server's schema does not limit."""

# Messages, with the places of values in braces: an f-string cannot be made into CEL.
NOT_ALLOWED = (
    "{value} is not allowed in this cluster; {hint}, or have it added to bounds.{bound} of the operator's chart"
)
LEAVE_OUT = "leave it out"
DENIED = (
    "{value} is denied in this cluster (bounds.egress.denied of the chart): it belongs to a node, a metadata service "
    "or the cluster itself; name another range"
)
WEAKENS = "{value} would weaken the pod's isolation; leave it out"
NO_KEY = "a toleration without a key is for every taint; name the key of a taint"
NO_TEXT = "must be a text"
TOO_MANY_SOURCES = f"has {{count}} sources; a projected volume may have {MAXIMUM_SOURCES}"


@dataclass(frozen=True)
class NamedObject:
    """A field of a pod with the name of another object."""

    field: str
    """The field of `PodOverrides`."""
    bound: str
    """The field of `Bounds` with the names that are allowed."""
    by_default: str = ""
    """The name that pods have without the field, which is always allowed."""


NAMED_OBJECTS = (
    NamedObject("service_account_name", "service_accounts", by_default="default"),
    NamedObject("priority_class_name", "priority_classes"),
    NamedObject("runtime_class_name", "runtime_classes"),
)


class EgressBounds(Model):
    """What `egress` of a RewardFunction may name."""

    allowed: list[Cidr] = ["0.0.0.0/0", "::/0"]
    """Ranges that may be named. Each range of a manifest must be inside of them, taken together."""
    denied: list[Cidr] = [
        "127.0.0.0/8",
        "169.254.0.0/16",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "::1/128",
        "fe80::/10",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
    ]
    """Ranges that no reward server may connect to: those of a node itself and of the metadata services of clouds, by
    default. A range inside of them is refused, and a NetworkPolicy leaves them out of a larger one."""


ImagePrefix = Annotated[str, AfterValidator(lambda prefix: prefix.rstrip("/"))]
"""The beginning of the address of an image, which ends where a part ends."""


class Bounds(Model):
    """What the `pod` and `egress` fields of manifests may ask for. In a list of names, `*` stands for every name."""

    volumes: list[str] = [
        "configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "secret",
    ]  # fmt: skip
    """Kinds of volumes, of the sources of projected volumes, and of what environment variables are read from."""
    image_prefixes: list[ImagePrefix] = [ANY]
    """Beginnings of the addresses of images, compared by whole parts."""
    service_accounts: list[str] = []
    """ServiceAccounts that pods may have beside the namespace's default one, whose token no pod has."""
    priority_classes: list[str] = []
    """PriorityClasses, because pods of a higher one can displace those of others."""
    runtime_classes: list[str] = [ANY]
    """RuntimeClasses."""
    tolerations: list[str] = [ANY]
    """Keys of taints that pods may tolerate. `*` does not stand for the taints of control planes."""
    egress: EgressBounds = EgressBounds()
    """What `egress` of a RewardFunction may name."""


def pod_violations(pod: PodOverrides | None, bounds: Bounds, location: Location) -> Iterator[Violation]:
    """Yield where the settings of a pod exceed the bounds: the place, the value, and what to do.

    Args:
        pod: the settings; None when a manifest has none.
        bounds: the bounds.
        location: the place of the settings in the manifest, such as `("spec", "pod")`.
    """
    if pod is None:
        return
    if pod.image is not None and not _has_prefix(pod.image, bounds.image_prefixes):
        yield _refuse((*location, "image"), pod.image, bounds.image_prefixes, "imagePrefixes")
    for named in NAMED_OBJECTS:
        value, allowed = getattr(pod, named.field), getattr(bounds, named.bound)
        if value and value != named.by_default and not _is_listed(value, allowed):
            yield _refuse((*location, camel(named.field)), value, allowed, camel(named.bound))
    for index, toleration in enumerate(pod.tolerations):
        yield from _toleration_violations(toleration, bounds, (*location, "tolerations", index))
    for index, variable in enumerate(pod.env):
        yield from _variable_violations(variable, bounds, (*location, "env", index))
    for index, volume in enumerate(pod.volumes):
        yield from _volume_violations(volume, bounds, (*location, "volumes", index))
    for name in sorted(pod.annotations):
        if name.startswith(WEAKENING_ANNOTATIONS):
            yield Violation(WEAKENS.format(value=one_line(name, SHOWN)), (*location, "annotations"))


def egress_violations(egress: Sequence[Egress], bounds: EgressBounds, location: Location) -> Iterator[Violation]:
    """Yield which destinations are outside of the bounds.

    Args:
        egress: the destinations.
        bounds: the bounds.
        location: the place of the destinations in the manifest.
    """
    allowed, denied = _parse(bounds.allowed), with_embeddings(_parse(bounds.denied))
    for index, destination in enumerate(egress):
        network, place = parse_cidr(destination.cidr), (*location, index, "cidr")
        if is_covered(network, denied):
            yield Violation(DENIED.format(value=destination.cidr), place)
        elif not is_covered(network, allowed):
            yield _refuse(place, destination.cidr, bounds.allowed, "egress.allowed")


def denied_parts(cidr: str, bounds: EgressBounds) -> list[str]:
    """Return the denied ranges inside of a range, which a NetworkPolicy has to leave out."""
    return [str(part) for part in networks_within(parse_cidr(cidr), with_embeddings(_parse(bounds.denied)))]


def _parse(cidrs: Iterable[str]) -> list[Network]:
    return [parse_cidr(cidr) for cidr in cidrs]


def _refuse(location: Location, value: str, allowed: Sequence[str], name: str) -> Violation:
    hint = f"use {', '.join(allowed)}" if allowed and ANY not in allowed else LEAVE_OUT
    return Violation(NOT_ALLOWED.format(value=one_line(value, SHOWN), hint=hint, bound=name), location)


def _is_listed(value: str, allowed: Sequence[str]) -> bool:
    return ANY in allowed or value in allowed


def _has_prefix(image: str, prefixes: Sequence[str]) -> bool:
    """Return whether an address of an image begins with one of the prefixes, compared by whole parts."""
    whole = _whole_address(image)
    return ANY in prefixes or any(
        whole == prefix
        or whole.startswith(f"{prefix}/")
        # Behind a registry alone, a colon would begin a port, which may be another registry.
        or ("/" in prefix and whole.startswith((f"{prefix}:", f"{prefix}@")))
        for prefix in prefixes
    )


def _whole_address(image: str) -> str:
    """Return the address of an image with its registry, which is docker.io for those that name none."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def _toleration_violations(toleration: Json, bounds: Bounds, location: Location) -> Iterator[Violation]:
    key = toleration.get("key")
    key = "" if key is None else key
    if not isinstance(key, str):
        yield Violation(NO_TEXT, (*location, "key"))
    elif not key and "" not in bounds.tolerations:
        yield Violation(NO_KEY, location)
    elif key not in bounds.tolerations and (key.startswith(NODE_ROLES) or (key and ANY not in bounds.tolerations)):
        yield _refuse((*location, "key"), key, bounds.tolerations, "tolerations")


def _variable_violations(variable: Json, bounds: Bounds, location: Location) -> Iterator[Violation]:
    for kind in sorted(_object(variable.get("valueFrom"))):
        if kind in FREE_VARIABLES or _is_listed(VARIABLES.get(kind, kind), bounds.volumes):
            continue
        yield _refuse((*location, "valueFrom"), kind, bounds.volumes, "volumes")


def _volume_violations(volume: Json, bounds: Bounds, location: Location) -> Iterator[Violation]:
    for kind in sorted(volume.keys() - {"name"}):
        if kind == "projected":
            sources = _object(volume[kind]).get("sources")
            sources = sources if isinstance(sources, list) else []
            if len(sources) > MAXIMUM_SOURCES:
                text = TOO_MANY_SOURCES.format(count=len(sources))
                yield Violation(text, (*location, kind, "sources"))
                continue
            for index, source in enumerate(sources):
                for inner in sorted(_object(source)):
                    if not _is_listed(inner, bounds.volumes):
                        place = (*location, kind, "sources", index)
                        yield _refuse(place, inner, bounds.volumes, "volumes")
        elif not _is_listed(kind, bounds.volumes):
            yield _refuse(location, kind, bounds.volumes, "volumes")
        elif kind == "image":
            reference = _object(volume[kind]).get("reference")
            if isinstance(reference, str) and not _has_prefix(reference, bounds.image_prefixes):
                yield _refuse((*location, kind, "reference"), reference, bounds.image_prefixes, "imagePrefixes")


def _object(value: Any) -> Json:
    """Return a value that Kubernetes would take for an object; an empty one for others, which it refuses itself."""
    return value if isinstance(value, dict) else {}
