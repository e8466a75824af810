"""Reading prompts: what is accepted, what each bad line is told, and how sources are mixed and split."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.trainer import job_spec, render

from rft_api.exit_codes import ExitCode, RunError
from rft_api.invocation_log import InvocationLog
from rft_api.sources import Data, DataSource, WarmupSource
from rft_api.warmup import Warmup
from rft_trainer.base_model import local_base_model
from rft_trainer.data import Prompt, load_conversations, load_dataset, load_warmup, mix
from rft_trainer.inputs import fetch_inputs
from rft_trainer.modeling import load_tokenizer, prompt_token_ids
from rft_trainer.provenance import build_provenance

GOOD = {"messages": [{"role": "user", "content": "3+4"}], "reference_answer": "7"}


def source(path, name="s", **fields):
    return DataSource(name=name, uri=str(path), reward="r", **fields)


def log_source(path, options):
    return source(path, format="BedrockInvocationLog", invocation_log=options)


def load(path, fraction=0.0, max_tokens=100):
    data = Data(train=[source(path)]).model_copy(update={"validation_fraction": fraction})
    return load_dataset(data, max_tokens, lambda messages: sum(len(m["content"]) for m in messages))


def refused(path, **options):
    with pytest.raises(RunError) as caught:
        load(path, **options)
    assert caught.value.code is ExitCode.DATA_INVALID
    return caught.value.message


def test_a_row_keeps_everything_that_the_reward_may_need(tmp_path):
    file = tmp_path / "a.jsonl"
    parts = [{"type": "text", "text": "3"}, {"type": "text", "text": "+4"}]
    row = {"messages": [{"role": "user", "content": parts}], "reference_answer": {"n": 7}, "level": 2}
    file.write_text("\ufeff" + json.dumps(row) + "\r\n\n" + json.dumps({**GOOD, "metadata": {"a": 1}}) + "\n", "utf-8")
    first, second = load(file).train["s"]
    assert first.messages == [{"role": "user", "content": "3+4"}]
    assert first.reference_answer == {"n": 7}
    assert first.metadata == {"level": 2}
    assert first.id == "s-1"
    assert second.id == "s-3"
    assert second.metadata == {"a": 1}


def test_the_reference_answer_may_stand_in_the_metadata(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": GOOD["messages"], "metadata": {"reference_answer": "7"}}))
    assert load(file).train["s"][0].reference_answer == "7"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "is not JSON: Expecting property name"),
        ("[1]", "must be a JSON object with messages, not list"),
        ('{"prompt": "x"}', "messages is missing"),
        ('{"messages": []}', "messages must be a list with at least one message"),
        ('{"messages": ["x"]}', "messages[0] must be an object with role and content"),
        (
            '{"messages": [{"role": "robot", "content": "x"}]}',
            "messages[0].role must be one of system, developer, user",
        ),
        ('{"messages": [{"content": "x"}]}', "messages[0].role must be one of"),
        ('{"messages": [{"role": "user"}]}', "messages[0].content is missing"),
        ('{"messages": [{"role": "user", "content": 3}]}', "messages[0].content must be text"),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
            "messages[0].content may hold text parts only",
        ),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}',
            "the last message must be the user's, not the assistant's; an expected answer goes to reference_answer",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}',
            "messages[0].tool_calls: tool calls are not supported",
        ),
        ('{"messages": [{"role": "user", "content": "x"}], "metadata": "x"}', 'metadata must be an object, not "x"'),
        (
            '{"messages": [{"role": "user", "content": "x"}], "reference_answer": 1, '
            '"metadata": {"reference_answer": 2}}',
            "reference_answer and metadata.reference_answer differ; keep one, or rename the other",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path, line, reason):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    assert f"{file}:2: {reason}" in refused(file)


def test_all_bad_lines_are_reported_at_once(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"messages": []}\n' + json.dumps(GOOD).encode() + b'\n{"messages": "\xff\xfe"}\nx\n')
    message = refused(file)
    assert f"{file}:1: messages must be" in message
    assert f"{file}:3: is not UTF-8 (byte 15 of the line)" in message
    assert f"{file}:4: is not JSON" in message


def test_a_flood_of_bad_lines_is_summed_up(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("x\n" * 100)
    assert refused(file).endswith("and 80 more")


def test_empty_and_missing_files(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    assert refused(empty) == f"{empty}: is empty; expected one JSON object per line"
    assert refused(tmp_path / "absent.jsonl") == f"{tmp_path / 'absent.jsonl'}: No such file or directory"


def test_long_prompts_are_counted_and_a_file_of_nothing_else_is_refused(tmp_path):
    file = tmp_path / "a.jsonl"
    long = {"messages": [{"role": "user", "content": "x" * 50}]}
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(long) + "\n")
    dataset = load(file, max_tokens=10)
    assert [p.messages[0]["content"] for p in dataset.train["s"]] == ["3+4"]
    assert dataset.too_long == {"train/s": 1}
    assert refused(file, max_tokens=2) == (
        f"{file}: all 2 prompts have more than 2 tokens; raise spec.hyperparameters.maxPromptTokens"
    )


def test_conversations_end_with_the_assistant(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(GOOD) + "\n")
    with pytest.raises(RunError) as caught:
        load_conversations([WarmupSource(name="w", uri=str(file))], len)
    assert f"{file}:1: the last message must be the assistant's, which is imitated, not the user's" in str(caught.value)


TURNS = [
    {"role": "user", "content": "1"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "2"},
    {"role": "assistant", "content": "b"},
]


def imitated(tmp_path, weights, imitate=None, **fields):
    """The answers of a conversation with these weights that are imitated, each with the length of what is before."""
    messages = [dict(message) for message in TURNS]
    for message, weight in zip(messages[1::2], weights, strict=True):
        message |= {} if weight is None else {"weight": weight}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": messages, **fields}) + "\n")
    source = WarmupSource(name="w", uri=str(file), imitate=imitate)
    read = load_conversations([source], len).conversations
    assert {conversation.line for conversation in read} == {1}
    return [(len(each.messages) - 1, each.messages[-1]["content"]) for each in read]


def test_which_answers_are_imitated(tmp_path):
    first, last = (1, "a"), (3, "b")
    assert imitated(tmp_path, (None, None)) == [last]
    assert imitated(tmp_path, (None, None), "LastAnswer") == [last]
    assert imitated(tmp_path, (None, None), "EveryAnswer") == [first, last]
    assert imitated(tmp_path, (1, None)) == [first, last]
    assert imitated(tmp_path, (1, 0)) == [first]
    assert imitated(tmp_path, (0, None), "EveryAnswer") == [last]
    assert imitated(tmp_path, (None, 0), "EveryAnswer") == [first]
    assert imitated(tmp_path, (None, None), "EveryAnswer", system="Be brief.") == [(2, "a"), (4, "b")]


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ((None, 0), "no message is imitated: those of the assistant have the weight 0"),
        ((2, 1), "messages[1].weight: must be 0 or 1"),
        ((True, 1), "messages[1].weight: must be 0 or 1"),
        ((None, "1"), "messages[3].weight: must be 0 or 1"),
    ],
)
def test_weights_that_are_refused(tmp_path, weights, reason):
    with pytest.raises(RunError) as caught:
        imitated(tmp_path, weights)
    assert f"a.jsonl:1: {reason}" in caught.value.message


def test_an_earlier_answer_is_checked_as_the_last_one_is(tmp_path):
    rows = [
        [{"role": "assistant", "content": "Hello"}, *TURNS],
        [TURNS[0], {**TURNS[1], "reasoning": "x"}, *TURNS[2:]],
        [{**TURNS[0], "weight": 1}, *TURNS[1:]],
        TURNS,
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))

    def check(messages):
        if messages[-1]["content"] == "a" and len(messages) == 2:
            raise ValueError("the template says no")

    with pytest.raises(RunError) as caught:
        load_conversations([WarmupSource(name="w", uri=str(file), imitate="EveryAnswer")], check)
    assert caught.value.message.splitlines() == [
        f"{file}:1: messages[0]: it is imitated, and the prompt is empty: no message has a text",
        f"{file}:2: messages[1].reasoning: only content is imitated; write it there in the form in which the model "
        "thinks, or leave it out",
        f"{file}:3: messages[0].weight: must be 0 or 1, of a message of the assistant",
        f"{file}:4: the first 2 messages: the template says no",
    ]


def test_conversations_that_are_set_aside_share_no_first_prompt_with_the_others(tmp_path):
    rows = [[{"role": "user", "content": f"{n // 2}"}, {"role": "assistant", "content": f"{n}"}] for n in range(40)]
    rows += [[*row, {"role": "user", "content": "more"}, {"role": "assistant", "content": "x"}] for row in rows[:4]]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    source = {"name": "w", "uri": str(file), "imitate": "EveryAnswer"}
    warmup = Warmup.model_validate({"data": [source], "validationFraction": "0.25"})
    read = load_warmup(warmup, len, None, is_alone=True)
    assert len(read.conversations) + len(read.validation) == 48
    lines = [{each.line for each in part} for part in (read.conversations, read.validation)]
    assert not lines[0] & lines[1]
    assert 8 <= len(lines[1]) <= 14
    firsts = [{each.messages[0]["content"] for each in part} for part in (read.conversations, read.validation)]
    assert not firsts[0] & firsts[1]
    assert load_warmup(warmup, len, None, is_alone=False).validation == []
    few = warmup.model_copy(update={"validation_fraction": 0.001})
    with pytest.raises(RunError, match=r"44 conversations cannot be split with validationFraction 0\.001"):
        load_warmup(few, len, None, is_alone=True)


LOGGED = {
    "schemaType": "ModelInvocationLog",
    "modelId": "m",
    "input": {"inputBodyJson": {"prompt": "3+4"}},
    "output": {"outputBodyJson": {"generation": "7"}},
}


def test_logs_are_read_counted_and_held_to_the_same_limit(tmp_path):
    file = tmp_path / "log.json"
    long = LOGGED | {"input": {"inputBodyJson": {"prompt": "x" * 50}}}
    file.write_text("\n".join(map(json.dumps, [LOGGED, long, LOGGED, 3])))
    log = log_source(file, InvocationLog(reference="LoggedAnswer"))
    data = Data(train=[log], test=[log]).model_copy(update={"validation_fraction": 0.0})
    dataset = load_dataset(data, 10, lambda messages: sum(len(m["content"]) for m in messages))
    (prompt,) = dataset.train["s"]
    assert (prompt.messages[0]["content"], prompt.reference_answer) == ("3+4", "7")
    assert dataset.too_long == {"train/s": 1, "test/s": 1}
    assert dataset.invocation_logs["test/s"].left_out == {"Duplicate": 1, "Unreadable": 1}
    warmup = load_conversations([log], len)
    assert [c.messages[-1]["content"] for c in warmup.conversations] == ["7", "7"]
    assert warmup.invocation_logs.keys() == {"warmup/s"}


def test_a_log_of_nothing_else_is_refused_with_its_counts(tmp_path):
    file = tmp_path / "log.json"
    file.write_text("3\n")
    log = log_source(file, InvocationLog())
    with pytest.raises(RunError) as caught:
        load_dataset(Data(train=[log]), 10, len)
    assert caught.value.code is ExitCode.DATA_INVALID
    assert f"{file}: no record of the invocation logs can be used: 0 of 1 records taken" in caught.value.message


def test_messages_of_a_log_that_the_chat_template_refuses_end_nothing(tmp_path):
    file = tmp_path / "log.json"
    file.write_text("\n".join(json.dumps(LOGGED | {"input": {"inputBodyJson": {"prompt": p}}}) for p in "ab"))

    def count(messages):
        if messages[0]["content"] == "a":
            raise ValueError("no")
        return 1

    log = log_source(file, InvocationLog())
    dataset = load_dataset(Data(train=[log]).model_copy(update={"validation_fraction": 0.0}), 10, count)
    assert [p.messages[0]["content"] for p in dataset.train["s"]] == ["b"]
    assert dataset.invocation_logs["train/s"].left_out == {"ChatTemplate": 1}


def test_logs_of_a_prefix_are_fetched_as_far_as_they_are_wanted(tmp_path, s3, monkeypatch, model):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = s3.make_bucket("bucket-of-logs")
    for day in ("09", "11", "20"):
        folder = bucket / f"logs/2025/03/{day}/00"
        folder.mkdir(parents=True)
        record = LOGGED | {"timestamp": f"2025-03-{day}T00:30:00Z", "input": {"inputBodyJson": {"prompt": day}}}
        (folder / "x.json.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    logs = {"name": "s", "uri": "s3://bucket-of-logs/logs/", "reward": "digits", "format": "BedrockInvocationLog"}
    march = {"from": "2025-03-11T00:00:00Z", "to": "2025-03-12T00:00:00Z"}
    spec = job_spec(model, tmp_path, tmp_path / "out")
    spec["data"] = {
        "train": [{**logs, "invocationLog": march}],
        "validation": [logs],
        "test": [{**logs, "invocationLog": {**march, "limit": 1}}],
    }
    config = fetch_inputs(render(spec, tmp_path / "run", "http://127.0.0.1:1", None), tmp_path / "scratch")
    fetched = Path(config.data.train[0].uri)
    assert [str(file.relative_to(fetched)) for file in fetched.rglob("*.gz")] == ["2025/03/11/00/x.json.gz"]
    assert config.data.test[0].uri == str(fetched)
    dataset = load_dataset(config.data, 10, len)
    assert [p.messages[0]["content"] for p in dataset.train["s"]] == ["11"]
    assert [p.messages[0]["content"] for p in dataset.validation] == ["09", "11", "20"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/job.json").write_text("{}")
    digests = build_provenance(config, local_base_model(config, None)).data
    assert digests["train/s"] == digests["test/s"] != digests["validation/s"]


def prompts(name, count):
    return [
        Prompt(f"{name}-{i}", name, "r", [{"role": "user", "content": f"{name}{i}"}], None, {}) for i in range(count)
    ]


def test_the_split_is_disjoint_whole_and_does_not_depend_on_the_order(tmp_path):
    rows = [json.dumps({"messages": [{"role": "user", "content": str(i)}]}) for i in range(50)]
    file, shuffled = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    file.write_text("\n".join(rows))
    shuffled.write_text("\n".join(reversed(rows)))

    def texts(found):
        return {p.messages[0]["content"] for p in found}

    one, two = load(file, fraction=0.2), load(shuffled, fraction=0.2)
    assert len(one.validation) == 10
    assert texts(one.validation) == texts(two.validation)
    assert texts(one.validation) | texts(one.train["s"]) == {str(i) for i in range(50)}
    assert not texts(one.validation) & texts(one.train["s"])


def test_all_answers_of_a_prompt_are_on_one_side_of_the_split(tmp_path):
    """40 prompts with three accepted answers each: a tenth is four prompts with all their rows, in every source."""

    def content(prompts, answers):
        rows = [
            {"messages": [{"role": "user", "content": str(p)}], "reference_answer": a} for p in prompts for a in answers
        ]
        return "\n".join(map(json.dumps, rows))

    (tmp_path / "a.jsonl").write_text(content(range(40), "xyz"))
    (tmp_path / "b.jsonl").write_text(content(range(30, 60), "z"))
    data = Data(train=[source(tmp_path / "a.jsonl", "a"), source(tmp_path / "b.jsonl", "b")])
    dataset = load_dataset(data.model_copy(update={"validation_fraction": 0.1}), 100, len)

    def texts(prompts):
        return {prompt.messages[0]["content"] for prompt in prompts}

    trained = texts([prompt for rows in dataset.train.values() for prompt in rows])
    assert not trained & texts(dataset.validation)
    assert trained | texts(dataset.validation) == {str(p) for p in range(60)}
    times = Counter(prompt.messages[0]["content"] for prompt in dataset.validation if prompt.source == "a")
    assert len(times) >= 4
    assert set(times.values()) == {3}


def test_a_share_smaller_than_the_rows_of_a_prompt_is_one_prompt(tmp_path):
    rows = [json.dumps({**GOOD, "messages": [{"role": "user", "content": str(n % 2)}]}) for n in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    assert len(load(tmp_path / "a.jsonl", fraction=0.1).validation) == 5
    (tmp_path / "a.jsonl").write_text("\n".join(rows[::2]))
    assert "cannot be split with validationFraction 0.1" in refused(tmp_path / "a.jsonl", fraction=0.1)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.05, 5), min_size=4, max_size=4),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_every_epoch_holds_each_source_in_its_share(sizes, weights, epochs, seed):
    train = {f"s{i}": prompts(f"s{i}", size) for i, size in enumerate(sizes)}
    shares = dict(zip(train, weights, strict=False))
    order = mix(train, shares, epochs, seed)
    total, size = sum(shares.values()), sum(sizes)
    assert abs(len(order) - epochs * size) <= len(sizes)
    drawn = Counter(p.source for p in order)
    for name, rows in train.items():
        assert abs(drawn[name] - epochs * size * shares[name] / total) <= 1
        times = Counter(p.id for p in order if p.source == name)
        # No prompt is used again before all of its source have been used.
        assert max(times.values(), default=0) - min((times[p.id] for p in rows), default=0) <= 1
    assert order == mix(train, shares, epochs, seed)


def test_messages_that_the_chat_template_refuses_are_named(tmp_path, model):
    file = tmp_path / "a.jsonl"
    twice = [{"role": "user", "content": "1"}, {"role": "user", "content": "2"}]
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps({"messages": twice}) + "\n")
    tokenizer = load_tokenizer(str(model))
    tokenizer.chat_template = "{% if messages | length > 1 %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    data = Data(train=[source(file)])
    with pytest.raises(RunError) as caught:
        load_dataset(data, 100, lambda messages: len(prompt_token_ids(tokenizer, messages)))
    assert caught.value.code is ExitCode.DATA_INVALID
    assert str(caught.value) == f"{file}:2: the model's chat template refuses these messages: Roles must alternate"
