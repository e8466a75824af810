"""Makes OpenAI's objects of the checkpoints of a job that has succeeded: the three with the highest reward."""

from __future__ import annotations

from rft_api.job_status import JobCheckpoint
from rft_api.model import Json
from rft_api.object_names import checkpoint_endpoint
from rft_gateway.fine_tuning.job import Job


def describe_checkpoints(job: Job) -> list[Json]:
    """Return the checkpoints of a job, best first.

    Their time is that at which the job has ended: the status has no other one.
    """
    return [
        {
            "object": "fine_tuning.job.checkpoint",
            "id": f"ftckpt-{job.name}-{checkpoint.step}",
            "created_at": job.finished_at or job.created_at,
            "fine_tuning_job_id": job.name,
            "fine_tuned_model_checkpoint": _model(job, checkpoint, is_best=not position),
            "step_number": checkpoint.step,
            "metrics": {"step": checkpoint.step, "full_valid_mean_reward": float(checkpoint.validation_reward)},
        }
        for position, checkpoint in enumerate(job.status.checkpoints)
    ]


def _model(job: Job, checkpoint: JobCheckpoint, is_best: bool) -> str:
    """Return the name of the model of a checkpoint: the best one is the tuned model. The address of one that no
    endpoint serves, under which an InferenceEndpoint can serve it."""
    tuned = job.tuned_model
    if tuned is None:
        return checkpoint.uri
    if is_best:
        return tuned
    serves_all = bool((job.spec.get("endpoint") or {}).get("checkpoints"))
    return checkpoint_endpoint(tuned, checkpoint.step) if serves_all else checkpoint.uri
