"""The machinery that is the same for every resource: watches, queue, reconciliation, metrics."""
