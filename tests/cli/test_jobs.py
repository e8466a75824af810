"""`rft jobs` names a job that is too large to be read, and lists the others."""

from __future__ import annotations

import json
import os
import stat

CONFIGURATION = {"contexts": [{"name": "here", "context": {}}]}


def test_one_large_job_of_a_tenant_hides_no_others(rft, tmp_path, monkeypatch):
    job = {
        "metadata": {"name": "tax", "namespace": "team-a", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"output": {"uri": "s3://bucket/tax"}},
    }
    large = {**job, "spec": {"values": [0] * 200_000}}
    lines = [f"team-b large{number} {json.dumps(large)}" for number in range(11)]
    (tmp_path / "jobs").write_text("\n".join([*lines, f"team-a tax {json.dumps(job)}", ""]))
    (tmp_path / "configuration").write_text(json.dumps(CONFIGURATION))
    script = tmp_path / "kubectl"
    script.write_text(f'#!/bin/sh\n[ "$1" = config ] && exec cat {tmp_path}/configuration\nexec cat {tmp_path}/jobs\n')
    script.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("COLUMNS", "200")
    result = rft("jobs", "--all-namespaces")
    assert result.returncode == 0, result.stderr
    assert "s3://bucket/tax" in result.stdout
    for number in range(11):
        assert f"RFTJob large{number} of namespace team-b: has more than 200,000 values" in result.stdout
