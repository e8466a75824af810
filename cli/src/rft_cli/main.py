"""The command line `rft`: commands and how their errors look; the work is done in modules that each command imports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Reinforcement fine-tuning of language models, on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Manifests = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Manifests, or folders with manifests (*.yaml, *.yml).", show_default=False),
]


@contextmanager
def _user_errors() -> Iterator[None]:
    """Ends the command with a message, not a traceback, when what the user gave is wrong."""
    from rft_api.manifests import ManifestErrors
    from rft_api.run import ExitCode, RunError

    try:
        yield
    except ManifestErrors as wrong:
        for error in wrong.errors:
            typer.echo(str(error), err=True)
        raise typer.Exit(ExitCode.CONFIGURATION_INVALID) from None
    except RunError as error:
        stopped = error.code is ExitCode.INTERRUPTED  # as the user asked
        typer.echo(error.message if stopped else f"error: {error.message}", err=True)
        raise typer.Exit(error.code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command()
def run(
    files: Manifests,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the run's files, in place of spec.output.uri.", show_default=False)
    ] = None,
    job: Annotated[
        str | None, typer.Option(help="Name of the RFTJob, when the files define several.", show_default=False)
    ] = None,
) -> None:
    """Train a job's model on this machine; the same command goes on with a run that was stopped.

    The last line of the output is the result as JSON.
    """
    with _user_errors():
        from rft_cli.run import run as run_job

        run_job(files, job, output)


@app.command()
def validate(files: Manifests) -> None:
    """Check manifests: fields, references, reward code, data files. All errors at once."""
    with _user_errors():
        from rft_cli.validate import validate as validate_files

        validate_files(files)


@app.command()
def score(
    reward: Annotated[Path, typer.Argument(metavar="REWARD.yaml", help="Manifest of a RewardFunction.")],
    completions: Annotated[
        Path,
        typer.Argument(
            metavar="COMPLETIONS",
            help="JSONL with messages that end with the assistant's, and reference_answer; "
            "or a run's rollouts/step-N.parquet.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="JSONL to write each line and its score to.", show_default=False)
    ] = None,
) -> None:
    """Score a file of completions with a reward function."""
    with _user_errors():
        from rich.console import Console

        from rft_cli.score import score as score_file

        score_file(reward, completions, output, Console())


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a run, finished or not.")],
) -> None:
    """Compare a run's model before and after, and draw its curves."""
    with _user_errors():
        from rich.console import Console

        from rft_cli.report import report as report_run

        report_run(run_folder, Console())


if __name__ == "__main__":
    app()
