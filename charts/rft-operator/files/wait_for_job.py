"""Waits until an RFTJob has ended, and says how: what `helm test` runs. Arguments: namespace, name, seconds."""

import sys
import time

from kubernetes import client, config

namespace, name, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
config.load_incluster_config()
resources = client.CustomObjectsApi()
deadline, shown = time.monotonic() + seconds, ""
while time.monotonic() < deadline:
    job = resources.get_namespaced_custom_object("rft.dev", "v1alpha1", namespace, "rftjobs", name)
    conditions = job.get("status", {}).get("conditions", [])
    state = [f"{c['type']}={c['status']} {c['reason']}: {c['message']}".rstrip(": ") for c in conditions]
    if "\n".join(state) != shown:
        shown = "\n".join(state)
        print(shown, flush=True)
    succeeded = next((c["status"] for c in conditions if c["type"] == "Succeeded"), "Unknown")
    if succeeded != "Unknown":
        print("result:", job["status"].get("result"))
        sys.exit(0 if succeeded == "True" else 1)
    time.sleep(2)
print(f"RFTJob {namespace}/{name} has not ended within {seconds} s; its conditions are above", file=sys.stderr)
sys.exit(1)
