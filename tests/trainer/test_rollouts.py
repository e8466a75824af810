"""Files of rollouts: what is written is read back, explanations only where there are some."""

import pyarrow.parquet as pq

from rft_api.reward_protocol import Score
from rft_trainer.data import Prompt
from rft_trainer.rollouts import read_rollouts, scored, write_rollouts


def test_explanations_have_a_column_when_there_are_some(tmp_path):
    prompt = Prompt(id="p", messages=[], reference_answer=None, metadata={}, source="s", reward="r")
    plain = scored(prompt, "a", 1, False, Score(id="1", aggregate_reward_score=0.5))
    explained = scored(prompt, "b", 1, False, Score(id="2", aggregate_reward_score=1.0, explanation="as it is"))
    write_rollouts(tmp_path / "with.parquet", [plain, explained])
    write_rollouts(tmp_path / "without.parquet", [plain])
    assert pq.read_table(tmp_path / "with.parquet")["explanation"].to_pylist() == [None, "as it is"]
    assert "explanation" not in pq.read_table(tmp_path / "without.parquet").column_names
    assert read_rollouts(tmp_path / "with.parquet", [prompt, prompt]) == [plain, explained]
    assert read_rollouts(tmp_path / "without.parquet", [prompt]) == [plain]
