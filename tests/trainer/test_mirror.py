"""The copy of a run's folder in an object store: what goes where and in which order."""

from hypothesis import given
from hypothesis import strategies as st

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
