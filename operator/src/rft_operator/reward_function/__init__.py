"""RewardFunction: a Deployment of reward servers."""
