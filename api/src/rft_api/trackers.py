"""The trackers of an RFTJob: the products to which a run sends its curves, configuration, results and samples."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from rft_api.model import Location, Model, Rule
from rft_api.quantities import Integer, exactly_one_of
from rft_api.remote_reward import CredentialKey, check_url

TrackerUrl = Annotated[str, Field(max_length=2048, pattern=r"^https?://[^/@]+(/[^@]*)?$"), AfterValidator(check_url)]
"""The address of a tracker's server. It is stored with the run and shown, so it holds no credentials."""

Label = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A name in a tracker, on one line."""

_WANDB_CLOUD = "https://api.wandb.ai"


class MLflowTracker(Model):
    """A tracking server of MLflow."""

    uri: TrackerUrl
    """Address of the tracking server, such as https://mlflow.example.com."""
    experiment: Label = "rft"
    """Name of the experiment. It is created if it does not exist."""
    run_name: Label | None = None
    """Name of the run in MLflow. The default is the name of the job."""
    token_key: CredentialKey | None = None
    """Key, in the credentials Secret, of the bearer token for the server. By default the Secret's keys
    MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, are used if it has them."""


class WandbTracker(Model):
    """A project of Weights & Biases."""

    project: Label
    """Name of the project."""
    entity: Label | None = None
    """User or team that the project belongs to. The default is that of the API key."""
    run_name: Label | None = None
    """Name of the run in Weights & Biases. The default is the name of the job."""
    mode: Literal["Online", "Offline"] = "Online"
    """Offline writes files to the folder wandb in the run's output, which `wandb sync` sends later."""
    base_url: TrackerUrl | None = None
    """Address of a server of your own. The default is that of Weights & Biases."""
    token_key: CredentialKey | None = None
    """Key, in the credentials Secret, of the API key. The default is WANDB_API_KEY."""


class TensorBoardTracker(Model):
    """Event files of TensorBoard, in the folder tensorboard of the run's output."""


class Tracker(Model):
    """A product to which a run sends its curves, configuration, results and samples."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("mlflow", "wandb", "tensorboard"),)

    mlflow: MLflowTracker | None = None
    """A tracking server of MLflow."""
    wandb: WandbTracker | None = None
    """A project of Weights & Biases."""
    tensorboard: TensorBoardTracker | None = None
    """Event files of TensorBoard, in the folder tensorboard of the run's output."""
    samples: Annotated[Integer, Field(ge=0, le=200)] = 20
    """Number of completions that are sent with each validation and with the result. With 0, no texts of the data leave
    the run."""

    @property
    def kind(self) -> Literal["mlflow", "wandb", "tensorboard"]:
        """The field that is set; also the name of the trainer's extra that brings the package."""
        if self.mlflow is not None:
            return "mlflow"
        return "wandb" if self.wandb is not None else "tensorboard"

    @property
    def description(self) -> str:
        """What a sentence calls the tracker."""
        if self.mlflow is not None:
            return f"MLflow at {self.mlflow.uri}"
        if self.wandb is not None:
            place = self.wandb.base_url or _WANDB_CLOUD
            return f"Weights & Biases at {place}" if self.wandb.mode == "Online" else "Weights & Biases (offline)"
        return "TensorBoard"

    @property
    def key(self) -> str:
        """A name for files, which differs for trackers that keep their runs in other places."""
        parts: Sequence[str | None] = ()
        if self.mlflow is not None:
            parts = (self.mlflow.uri, self.mlflow.experiment)
        elif self.wandb is not None:
            parts = (self.wandb.mode, self.wandb.base_url, self.wandb.entity, self.wandb.project)
        digest = hashlib.sha256("\n".join(part or "" for part in parts).encode()).hexdigest()[:8]
        return f"{self.kind}-{digest}" if parts else self.kind


Trackers = Annotated[list[Tracker], Field(max_length=8)]

_PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb", "tensorboard": "tensorboard"}


def missing_packages(trackers: Sequence[Tracker]) -> Iterator[tuple[Location, str]]:
    """Yield the place in `spec` of each tracker whose package is not installed, and what to do about it."""
    for index, tracker in enumerate(trackers):
        spec = importlib.util.find_spec(tracker.kind)
        # A folder of this name in the working directory is no package, though it can be imported.
        if spec is None or spec.origin is None:
            yield (
                ("spec", "trackers", index, tracker.kind),
                f"the package {_PACKAGES[tracker.kind]} is not installed with the trainer: run pip install "
                f"'rft-trainer[{tracker.kind}]', or remove the tracker",
            )


def distinct_trackers(trackers: Sequence[Tracker]) -> list[Tracker]:
    """Return the trackers without those that repeat an earlier one's place."""
    return list({tracker.key: tracker for tracker in reversed(trackers)}.values())[::-1]
