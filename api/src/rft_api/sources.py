"""The data of an RFTJob: its sources of prompts and conversations."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rft_api.invocation_log import InvocationLog
from rft_api.model import Model, Rule, camel
from rft_api.quantities import Between, Decimal, Name, at_most_one_of

Uri = Annotated[str, Field(min_length=1, max_length=1024)]

FormatName = Literal["OpenAIChat", "BedrockInvocationLog"]

DEFAULT_VALIDATION_FRACTION = 0.1


def _options_of(format_name: FormatName, field: str) -> Rule:
    """Return the rule that the options of a format stand only where the format does."""
    name = camel(field)
    return Rule(
        cel=f"!has(self.{name}) || self.format == '{format_name}'",
        message=f"{name} belongs to format {format_name}; remove it or set the format",
        holds=lambda source: getattr(source, field) is None or source.format == format_name,
    )


class Source(Model):
    """A source of data: its address and its format."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _options_of("BedrockInvocationLog", "invocation_log"),
        _options_of("OpenAIChat", "split"),
    )

    name: Name
    """Name of the source. Metrics and rollouts have it as a label."""
    uri: Uri
    """Address of the data: s3://BUCKET/KEY, configmap://NAME/KEY, pvc://CLAIM/PATH,
    hf://datasets/OWNER/NAME[@REVISION][/PATH], or, in local runs, a path. The address names a file. For invocation
    logs, and for a Hugging Face dataset, it can also name a folder or a prefix; then the files below it are read."""
    format: FormatName = "OpenAIChat"
    """Format of the data. OpenAIChat: rows in OpenAI chat format, as JSON or in tables; BedrockInvocationLog: Amazon
    Bedrock's model invocation logs."""
    split: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """Name of the split that is read of a Hugging Face dataset, such as train. It must be set if there are several
    splits at the address."""
    invocation_log: InvocationLog | None = None
    """Which records of the invocation logs are used, and how. By default all records are used."""


class DataSource(Source):
    """Prompts, and the reward that scores their completions."""

    reward: Name
    """Name of the RewardFunction, in the job's namespace, that scores this source's completions."""
    weight: Annotated[Decimal, Between("0", "1000000", low_included=False)] = 1.0
    """Weight of this source in the mixture of training prompts. A source with weight 2 contributes twice as many
    prompts as a source with weight 1."""


class WarmupSource(Source):
    """Conversations that the model learns to imitate. Each conversation ends with an answer of the assistant, and the
    model learns to give this answer. In invocation logs it is the logged answer."""

    rules: ClassVar[tuple[Rule, ...]] = (*Source.rules, _options_of("OpenAIChat", "imitate"))

    imitate: Literal["LastAnswer", "EveryAnswer"] | None = None
    """Which messages of the assistant are imitated: the last one, or all of them. A message that has a weight, 0 or 1,
    says so itself. The default is LastAnswer."""


Sources = Annotated[list[DataSource], Field(min_length=1, max_length=32)]


def distinct_names(field: str) -> Rule:
    """Return the rule that no two sources in a field have the same name."""

    def holds(model: Model) -> bool:
        sources: list[Source] = getattr(model, field) or []
        return len({source.name for source in sources}) == len(sources)

    return Rule(
        cel="size(self) < 2 || self.all(a, self.exists_one(b, b.name == a.name))",
        message=f"{field}: every source needs a name of its own",
        holds=holds,
        field=field,
    )


class Data(Model):
    """The prompts to train on, to choose the best checkpoint with, and to measure the result on."""

    rules: ClassVar[tuple[Rule, ...]] = (
        at_most_one_of("validation", "validation_fraction"),
        distinct_names("train"),
        distinct_names("validation"),
        distinct_names("test"),
    )

    train: Sources | None = None
    """Sources of the training prompts. They are mixed in proportion to their weights. Without them there is no
    reinforcement learning, and the job is its warm-up alone."""
    validation: Sources | None = None
    """Sources of the validation prompts, which choose the best checkpoint."""
    validation_fraction: Annotated[Decimal, Between("0.001", "0.5")] | None = None
    """Share of the training prompts that is set aside for validation. The default is "0.1" if validation is absent."""
    test: Sources | None = None
    """Sources of the test prompts, on which the base model and the tuned model are compared. Nothing else uses them. By
    default the models are compared on the validation prompts."""

    @property
    def effective_validation_fraction(self) -> float:
        """Share of the training prompts that is set aside for validation; 0 when validation has sources of its own, and
        without training prompts."""
        if self.validation or not self.train:
            return 0.0
        return DEFAULT_VALIDATION_FRACTION if self.validation_fraction is None else self.validation_fraction
