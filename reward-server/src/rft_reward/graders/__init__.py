"""The graders, which compute scores in a worker."""
