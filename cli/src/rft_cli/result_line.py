"""The result of a run as one line of JSON, the last line that `rft run` and `rft submit` print."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rft_api.model import Json
from rft_api.summary import Summary
from rft_cli.report import Run


def final_line(run: Run, summary: Summary, changed_inputs: Sequence[str] | None = ()) -> str:
    """Return the result as one line of JSON, which programs can read.

    Args:
        run: the run.
        summary: its summary.
        changed_inputs: the inputs that are no longer what was measured; None if that is not known. The line has them
            unless there are none.
    """
    return json.dumps(
        {
            "job": summary.name,
            **_rewards(summary),
            **_losses(summary),
            "rewardHackingSuspected": summary.reward_hacking.suspected if summary.reward_hacking else None,
            "bestStep": summary.best_step,
            "steps": summary.steps,
            "seconds": round(sum(summary.seconds.values()), 1),
            "output": run.address,
            **({"changedInputs": changed_inputs} if changed_inputs is None or changed_inputs else {}),
        },
        ensure_ascii=False,
    )


def _rewards(summary: Summary) -> Json:
    if summary.base is None or summary.tuned is None or summary.gain is None:
        return {}
    return {
        "baselineReward": summary.base.reward,
        "tunedReward": summary.tuned.reward,
        "gain": summary.gain.mean,
        "interval": [summary.gain.low, summary.gain.high],
        "prompts": summary.prompts,
        "heldOut": summary.held_out,
    }


def _losses(summary: Summary) -> Json:
    loss = summary.loss
    if loss is None:
        return {}
    return {
        "baselineLoss": loss.base,
        "tunedLoss": loss.tuned,
        "lossChange": loss.change.mean,
        "lossInterval": [loss.change.low, loss.change.high],
        "conversations": loss.conversations,
    }
