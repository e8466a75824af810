"""The part of a manifest that chooses a builtin reward: its name, and its options in a field of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, create_model

from rft_api.builtin_options import BuiltinOptions
from rft_api.builtin_table import BUILTINS, options_key
from rft_api.model import Model, Rule


class _BuiltinReward(Model):
    name: str

    @property
    def options(self) -> BuiltinOptions:
        """The options of the chosen builtin, or their defaults if the manifest does not state any."""
        stated = self.stated_options(self.name)
        return BUILTINS[self.name]() if stated is None else stated

    def stated_options(self, name: str) -> BuiltinOptions | None:
        """Return the options that the manifest states for a builtin, if any."""
        options: BuiltinOptions | None = getattr(self, _attribute(name))
        return options


def _attribute(name: str) -> str:
    # The field of a pydantic model must not have the name of a method of it, such as json.
    return f"{options_key(name)}_options"


def _options_belong_to_name() -> Rule:
    keys = {name: options_key(name) for name in BUILTINS}
    return Rule(
        cel=" && ".join(f"(!has(self.{key}) || self.name == '{name}')" for name, key in keys.items()),
        message=f"options must be those of the builtin that name selects ({', '.join(keys.values())})",
        holds=lambda reward: all(reward.stated_options(name) is None for name in BUILTINS if name != reward.name),
    )


def _options_are_there(name: str) -> Rule:
    return Rule(
        cel=f"self.name != '{name}' || has(self.{options_key(name)})",
        message=f"builtin {name} needs its constraints in {options_key(name)}",
        holds=lambda reward: reward.name != name or reward.stated_options(name) is not None,
    )


if TYPE_CHECKING:
    BuiltinReward = _BuiltinReward
else:
    # The fields follow from the table, so that a new builtin is one entry there.
    BuiltinReward = create_model(
        "BuiltinReward",
        __base__=_BuiltinReward,
        __doc__="A builtin reward of the reward server.",
        rules=(
            ClassVar[tuple[Rule, ...]],
            (
                _options_belong_to_name(),
                *(_options_are_there(name) for name, options in BUILTINS.items() if options.options_required),
            ),
        ),
        name=(Literal[tuple(BUILTINS)], Field(description="Name of the builtin.")),
        **{
            _attribute(name): (
                options | None,
                Field(
                    None,
                    alias=options_key(name),
                    description=f"Options of the builtin {name}. It scores {options.summary}.",
                ),
            )
            for name, options in BUILTINS.items()
        },
    )
