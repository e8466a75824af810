"""OpenAI's fine-tuning API: each of its jobs is an RFTJob, and each of its graders a RewardFunction."""
