"""The trainer: data, preflight, warm-up, GRPO, evaluation, export."""
