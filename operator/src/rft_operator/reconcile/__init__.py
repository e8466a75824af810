"""The machinery that is the same for every resource: watch, queue, reconcile."""
