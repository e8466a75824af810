"""The copy of a run's folder in an object store: what goes where and in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_api.exit_codes import ExitCode, RunError
from rft_api.run_folder import RunFolder
from rft_api.storage_error import StorageError
from rft_trainer import mirror
from rft_trainer.mirror import plan_sync

NAMES = st.sampled_from(
    [
        "metrics.jsonl",
        "summary.json",
        "checkpoints/step-2/complete.json",
        "checkpoints/step-4/complete.json",
        "checkpoints/step-2/model.safetensors",
        "a",
    ]
)
FILES = st.dictionaries(NAMES, st.tuples(st.integers(0, 2), st.integers(0, 2)))


@given(FILES, FILES)
def test_the_copy_becomes_equal_and_nothing_else_is_touched(files, copied):
    plan = plan_sync(files, copied)
    result = {name: state for name, state in copied.items() if name not in plan.delete}
    result |= {name: files[name] for name in plan.upload}
    assert result == files
    assert plan_sync(files, result) == type(plan)([], [])


@given(FILES, FILES)
def test_what_says_complete_comes_last_and_goes_first(files, copied):
    plan = plan_sync(files, copied)
    marker, weights = "checkpoints/step-2/complete.json", "checkpoints/step-2/model.safetensors"
    for names, first, last in ((plan.upload, weights, marker), (plan.delete, marker, weights)):
        if first in names and last in names:
            assert names.index(first) < names.index(last)
    markers = [name for name in plan.upload if name.endswith("/complete.json")]
    assert markers == sorted(markers, key=lambda name: files[name][1])
    if "summary.json" in plan.upload:
        assert plan.upload[-1] == "summary.json"


class Store:
    """An object store that refuses to take anything, or does not answer."""

    def __init__(self, permanent):
        self._permanent = permanent

    def upload(self, path, uri, on_bytes):
        raise StorageError(f"cannot write {uri}: AccessDenied", self._permanent)


@pytest.mark.parametrize("permanent", [True, False])
def test_a_store_that_takes_nothing_is_noticed_before_training(tmp_path, monkeypatch, permanent):
    monkeypatch.setattr(mirror, "ObjectStore", lambda: Store(permanent))
    (tmp_path / "job.json").write_text("{}")
    copy = mirror.Mirror(RunFolder(tmp_path), "s3://bucket/run")
    if permanent:
        with pytest.raises(RunError, match=r"cannot write s3://bucket/run/job\.json: AccessDenied") as raised:
            copy.start()
        assert raised.value.code is ExitCode.OUTPUT_INVALID
    else:
        copy.start()  # it may answer before the run is over
        monkeypatch.setattr(mirror, "FINAL_SECONDS", 0)
        with pytest.raises(RunError, match="AccessDenied") as raised:
            copy.finish()
        assert raised.value.code is ExitCode.OUTPUT_FAILED
