"""RewardFunction: a server that scores."""
