"""The command line `rft`: it declares the commands; each command imports the module that does its work."""

from __future__ import annotations

from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer

from rft_cli.data_commands import data_commands
from rft_cli.key_commands import key_commands
from rft_cli.reward_commands import reward_commands
from rft_cli.user_errors import user_errors as _user_errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_commands, name="data")
app.add_typer(key_commands, name="keys")
app.add_typer(reward_commands, name="rewards")


def _print_version(option: bool = True) -> None:
    if option:
        typer.echo(f"rft {version_of('rft-cli')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Reinforcement fine-tuning of language models, on this machine and in clusters."""


@app.command()
def version() -> None:
    """Print the version of what is installed."""
    _print_version()


Manifests = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="Manifests, or folders with manifests (*.yaml, *.yml).", show_default=False),
]


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
    """Train a job's model on this machine; the same command resumes a run that was stopped.

    The last line of the output is the result as JSON.
    """
    with _user_errors():
        from rft_cli.run import run as run_job

        run_job(files, job, output)


KubeConfig = Annotated[
    str | None,
    typer.Option("--kubeconfig", metavar="FILE", help="Kubeconfig, as for kubectl.", show_default=False),
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.", show_default=False)
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAME", help="Namespace, by default that of the context.", show_default=False
    ),
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of the RFTJob.")]


@app.command()
def submit(
    files: Manifests,
    output: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="s3://BUCKET/PREFIX, in place of spec.output.uri.", show_default=False),
    ] = None,
    job: Annotated[
        str | None, typer.Option(help="Name of the RFTJob, when the files define several.", show_default=False)
    ] = None,
    kubeconfig: KubeConfig = None,
    context: Context = None,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            metavar="NAME",
            help="Namespace, by default that of the manifest, or of the context.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Change rewards, ConfigMaps and endpoints that exist with other contents, and delete a job of this "
            "name that has ended.",
        ),
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end of the job.")] = False,
) -> None:
    """Run manifests in a cluster: upload local data and models, apply the objects, and show the job until it ends.

    What is uploaded already is not sent again. Ctrl-C leaves the job running; the same command shows it again. The last
    line of the output is the result as JSON.
    """
    with _user_errors():
        from rft_cli.submit.command import Options
        from rft_cli.submit.command import submit as submit_files

        submit_files(files, Options(job, output, kubeconfig, context, namespace, replace, detach))


@app.command()
def jobs(
    kubeconfig: KubeConfig = None,
    context: Context = None,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Jobs of all namespaces.")] = False,
) -> None:
    """List the jobs of a cluster: state, step, reward, gain and output."""
    with _user_errors():
        from rft_cli.console import make_console
        from rft_cli.kubectl import Kubectl
        from rft_cli.submit.jobs import list_jobs

        list_jobs(Kubectl(kubeconfig, context, namespace), all_namespaces, make_console())


@app.command()
def logs(
    job: JobName,
    kubeconfig: KubeConfig = None,
    context: Context = None,
    namespace: Namespace = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the pod ends.")] = False,
) -> None:
    """Print the log of a job's trainer: of the first pod of its newest attempt."""
    with _user_errors():
        from rft_cli.kubectl import Kubectl
        from rft_cli.submit.jobs import print_log

        print_log(Kubectl(kubeconfig, context, namespace), job, follow)


@app.command()
def cancel(job: JobName, kubeconfig: KubeConfig = None, context: Context = None, namespace: Namespace = None) -> None:
    """Stop a job of a cluster: it saves a checkpoint, and gives its GPUs back (spec.suspend).

    What it has written stays. The same `rft submit` resumes it.
    """
    with _user_errors():
        from rft_cli.kubectl import Kubectl
        from rft_cli.submit.jobs import cancel_job

        print(cancel_job(Kubectl(kubeconfig, context, namespace), job))


@app.command()
def validate(files: Manifests) -> None:
    """Check manifests: fields, references, reward code, and that local files exist. All errors at once.

    The rows of data files are checked by `rft data check JOB.yaml`.
    """
    with _user_errors():
        from rft_cli.validate import validate as validate_files

        validate_files(files)


@app.command()
def plan(files: Manifests) -> None:
    """Say what memory each job needs on its GPUs, whether it fits, and what to change if it does not.

    Only the model's config.json is read.
    """
    with _user_errors():
        from rft_cli.console import make_console
        from rft_cli.plan import plan as plan_jobs

        plan_jobs(files, make_console())


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
    name: Annotated[
        str | None, typer.Option(help="Which one, when the manifest has several.", show_default=False)
    ] = None,
) -> None:
    """Score a file of completions with a reward function."""
    with _user_errors():
        from rft_cli.console import make_console
        from rft_cli.score import score as score_file

        score_file(reward, name, completions, output, make_console())


@app.command()
def report(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Output of a run, finished or not: a folder, or s3://BUCKET/PREFIX.")
    ],
) -> None:
    """Compare a run's model before and after, and draw its curves."""
    with _user_errors():
        from rft_cli.console import make_console
        from rft_cli.report import report as report_run

        if run.startswith("s3://"):
            from rft_cli.stored_run import fetch_run

            report_run(fetch_run(run), make_console(), run.rstrip("/"))
        else:
            report_run(Path(run), make_console())


@app.command()
def track(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Output of a run that has ended: a folder, or s3://BUCKET/PREFIX.")
    ],
    manifest: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Your own manifest of the job, whose trackers count in place of what the run's folder says "
            "(repeatable).",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Send it where the run's folder says, without being asked.")
    ] = False,
) -> None:
    """Send a run's trackers what has not reached them.

    The run's folder says where that is, and whoever wrote it may have chosen the place. So you are asked first, unless
    a manifest of yours says the place, and the senders see only the variables MLFLOW_* or WANDB_*.
    """
    with _user_errors():
        from rft_cli.console import make_console
        from rft_cli.track import track as track_run

        track_run(run, make_console(), manifest or (), yes)


@app.command()
def usage(
    ledger: Annotated[
        str | None,
        typer.Argument(
            metavar="LEDGER",
            help="File of the gateway's ledger, or its URL of PostgreSQL; by default what RFT_GATEWAY_LEDGER says.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Of day,namespace,key,model; by default key,model.", show_default=False),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DAY", help="First day (UTC), by default the month's.", show_default=False)
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="DAY", help="Last day (UTC).", show_default=False)] = None,
    namespace: Annotated[str | None, typer.Option(help="Count this namespace only.", show_default=False)] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, without the sum.")] = False,
) -> None:
    """Print requests, tokens and costs of the gateway's users."""
    with _user_errors():
        from rft_cli.usage import usage as print_usage

        options = {"by": by, "since": since, "until": until, "namespace": namespace}
        raise typer.Exit(print_usage(ledger, options, csv))


@app.command()
def serve(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|FILE...",
            help="Output folder of a run with an exported model; or manifests of InferenceEndpoints, or folders "
            "with manifests.",
            show_default=False,
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is a free one.", min=0, max=65535)] = 8000,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line when it is ready: the address and a key, as JSON.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for keys, ledger, logs and fetched models; by default serving, in the run or beside the first "
            "manifest.",
            show_default=False,
        ),
    ] = None,
    logs: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Keep conversations in this folder, or at s3://BUCKET/PREFIX, in place of spec.logs.uri.",
            show_default=False,
        ),
    ] = None,
    logs_fraction: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Keep this share of them, such as 0.1.", show_default=False)
    ] = None,
    logs_redact: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Replace what matches this regular expression before anything is written (repeatable).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve a run's model, or InferenceEndpoints, with OpenAI's API on this machine, until Ctrl-C.

    The base model of a run is served, too, under its own name. Who asks needs the key that is printed; requests and
    tokens are counted. With --logs, conversations are kept to train the next model.
    """
    with _user_errors():
        from rft_cli.serve import serve as serve_places
        from rft_cli.served_logs import log_of

        serve_places(places, host, port, as_json, folder, log_of(logs, logs_fraction, logs_redact))


def kubectl_plugin() -> None:
    """Run the command line as the plugin `kubectl rft`."""
    app(prog_name="kubectl rft")


if __name__ == "__main__":
    app()
