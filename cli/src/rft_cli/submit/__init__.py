"""`rft submit`: upload what is local, apply the manifests in a cluster, and show the job there."""
