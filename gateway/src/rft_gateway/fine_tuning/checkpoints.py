"""Makes OpenAI's objects of the checkpoints of a job that has succeeded: the three with the highest reward."""

from __future__ import annotations

from rft_api.model import Json
from rft_gateway.fine_tuning.job import Job


def describe_checkpoints(job: Job) -> list[Json]:
    """Return the checkpoints of a job, best first.

    The best one is the tuned model itself and has its name. The others have their addresses, under which an
    InferenceEndpoint can serve them. Their time is that at which the job has ended: the status has no other one.
    """
    best = job.tuned_model
    return [
        {
            "object": "fine_tuning.job.checkpoint",
            "id": f"ftckpt-{job.name}-{checkpoint.step}",
            "created_at": job.finished_at or job.created_at,
            "fine_tuning_job_id": job.name,
            "fine_tuned_model_checkpoint": best if best is not None and not position else checkpoint.uri,
            "step_number": checkpoint.step,
            "metrics": {"step": checkpoint.step, "full_valid_mean_reward": float(checkpoint.validation_reward)},
        }
        for position, checkpoint in enumerate(job.status.checkpoints)
    ]
