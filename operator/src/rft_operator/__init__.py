"""The operator: watches the project's resources and keeps the cluster in the state that they describe."""
