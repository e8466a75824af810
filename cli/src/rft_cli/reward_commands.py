"""`rft rewards`: commands that list and show rewards, write a manifest to start from, and compare versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rft_cli.user_errors import user_errors

reward_commands = typer.Typer(help="List, show, create and compare rewards.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A reward that `rft rewards list` shows.")]


@reward_commands.command("list")
def list_() -> None:
    """List the rewards that there are: builtins, judges and ways to bring one's own."""
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.rewards import list_rewards

        list_rewards(make_console())


@reward_commands.command()
def show(name: Name) -> None:
    """Show a reward's options and an example manifest."""
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.rewards import show_reward

        show_reward(name, make_console())


@reward_commands.command()
def init(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", show_default=False, help="A reward that `rft rewards list` shows.")
    ] = "",
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Manifest to write.")] = Path("reward.yaml"),
    from_file: Annotated[
        list[Path],
        typer.Option(
            "--from-file",
            metavar="CODE.py",
            help="A file of Python code in place of NAME; its imports become requirements. "
            "Repeat the option for further files. Or a grader of OpenAI as a .json file.",
        ),
    ] = [],  # noqa: B006
    handler: Annotated[str, typer.Option(help="The function that scores; by default it is found in the code.")] = "",
) -> None:
    """Write a manifest to start from, with tests or with your code; never over a file that exists."""
    with user_errors():
        from rft_cli.console import make_console

        if from_file:
            from rft_cli.reward_from_file import init_from_files

            init_from_files(from_file, handler, Path(name) if name else file, make_console())
        else:
            from rft_cli.rewards import init_reward

            init_reward(name, file, make_console())


@reward_commands.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A.yaml", help="Manifest of a RewardFunction.")],
    second: Annotated[Path, typer.Argument(metavar="B.yaml", help="Another version of it.")],
    completions: Annotated[
        Path, typer.Argument(metavar="COMPLETIONS", help="A run's rollouts/step-N.parquet, or JSONL as for rft score.")
    ],
    samples: Annotated[int, typer.Option(min=0, help="Completions to show that moved the most.")] = 5,
) -> None:
    """Compare two versions of a reward on the same completions.

    The last line of the output is the result as JSON.
    """
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.reward_diff import diff as compare

        compare(first, second, completions, samples, make_console())


@reward_commands.command()
def regrade(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, finished or not.")],
    reward: Annotated[Path, typer.Argument(metavar="REWARD.yaml", help="Manifest of the changed RewardFunction.")],
    name: Annotated[str | None, typer.Option(help="The RewardFunction, if the manifest has several.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Groups to show that gain or lose their signal.")] = 3,
) -> None:
    """Score the stored completions of a run with a changed reward, before it is trained on.

    Shows the curves of the steps under both rewards, the groups that gain or lose different rewards, and whether the
    exported checkpoint would still be the best. The last line of the output is the result as JSON.
    """
    with user_errors():
        from rft_cli.console import make_console
        from rft_cli.reward_regrade import regrade as regrade_run

        regrade_run(run, reward, name, samples, make_console())
