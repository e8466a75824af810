"""What statuses say: conditions, their reasons, and the events that tell of them."""
