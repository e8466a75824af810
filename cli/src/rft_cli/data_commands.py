"""`rft data`: commands that check, describe, split and convert data; none of them needs a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rft_cli.user_errors import user_errors

data_commands = typer.Typer(help="Check, describe, split and convert data.", no_args_is_help=True)

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE|JOB.yaml...",
        help="Files of data (paths, s3://BUCKET/KEY), or manifests of jobs, whose sources are meant.",
        show_default=False,
    ),
]
Conversations = Annotated[
    bool, typer.Option("--conversations", help="Files of warm-up data, whose lines end with the assistant's answer.")
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split of a folder or dataset that has several, such as train.", show_default=False),
]
Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="Format of the files, as in manifests.")]


@data_commands.command()
def check(
    targets: Targets, format_: Format = "OpenAIChat", conversations: Conversations = False, split: Split = None
) -> None:
    """Say everything that is wrong with data, by file and line, and which prompts occur twice."""
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.data_check import check as check_data

        check_data(targets, format_, conversations, split, make_console())


@data_commands.command()
def stats(
    targets: Targets,
    format_: Format = "OpenAIChat",
    conversations: Conversations = False,
    split: Split = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Describe data: rows, lengths, roles, reference answers, duplicates."""
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.data_stats import stats as describe

        describe(targets, format_, conversations, split, json, make_console())


@data_commands.command()
def split(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL in OpenAI chat format (path, s3://BUCKET/KEY).")],
    validation: Annotated[float, typer.Option(help="Share of the prompts that choose the checkpoint.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the prompts of the before/after table.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another number chooses other prompts.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the new files; that of FILE when absent.", show_default=False)
    ] = None,
    conversations: Conversations = False,
) -> None:
    """Split a file into train, validation and test by a hash of each prompt.

    Rows added later move no other row, and rows with the same prompt stay together.
    """
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.data_split import split as split_file

        split_file(file, validation, test, seed, output, conversations, make_console())


@data_commands.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="File, folder, s3:// or hf://datasets/ address.")],
    format_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FORMAT",
            help="OpenAIChat, Converse, ShareGPT, Alpaca, PromptCompletion, QuestionAnswer or BedrockInvocationLog.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="JSONL to write.", show_default=False)],
    conversations: Annotated[
        bool, typer.Option("--conversations", help="Write warm-up data: the answer becomes the last message.")
    ] = False,
    prompt_field: Annotated[
        str | None,
        typer.Option(help="Rows: field of the prompt, such as problem or extra_info.question.", show_default=False),
    ] = None,
    answer_field: Annotated[
        str | None,
        typer.Option(
            help="Rows: field of the answer, such as solution or reward_model.ground_truth.", show_default=False
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Rows: split of a folder or dataset that has several, such as train.", show_default=False),
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Logs: the logged answer becomes the reference answer.")
    ] = False,
    model: Annotated[
        list[str] | None, typer.Option(help="Logs: take this model only (repeatable).", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Logs: take records from this time on, 2026-01-31T12:00:00Z.", show_default=False)
    ] = None,
    until: Annotated[str | None, typer.Option(help="Logs: take records before this time.", show_default=False)] = None,
    equals: Annotated[
        list[str] | None,
        typer.Option(help="Logs: KEY=VALUE that the request's metadata has (repeatable).", show_default=False),
    ] = None,
    not_equals: Annotated[
        list[str] | None,
        typer.Option(help="Logs: KEY=VALUE that the request's metadata has not (repeatable).", show_default=False),
    ] = None,
    feedback: Annotated[
        str | None,
        typer.Option(
            metavar="RATING", help="Logs: Up takes what was liked or corrected, Down what was not.", show_default=False
        ),
    ] = None,
    redact: Annotated[
        list[str] | None,
        typer.Option(
            help="Logs: regular expression whose matches become \\[redacted] (repeatable).", show_default=False
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Logs: stop after this many.", show_default=False)] = None,
) -> None:
    """Write data of another format as JSONL in OpenAI chat format."""
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.data_convert import convert_logs, convert_rows, log_options, refuse_options

        of_logs = {
            "--reference": reference, "--model": model, "--since": since, "--until": until, "--equals": equals,
            "--not-equals": not_equals, "--feedback": feedback, "--redact": redact, "--limit": limit,
        }  # fmt: skip
        of_rows = {"--prompt-field": prompt_field, "--answer-field": answer_field, "--split": split}
        refuse_options(format_, of_rows if format_ == "BedrockInvocationLog" else of_logs)
        if format_ == "BedrockInvocationLog":
            options = log_options(reference, model, since, until, equals, not_equals, feedback, redact, limit)
            convert_logs(source, options, output, conversations, make_console())
        else:
            convert_rows(source, format_, prompt_field, answer_field, split, output, conversations, make_console())
