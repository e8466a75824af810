"""Amazon Bedrock's model invocation logs: what becomes a prompt, what does not and why, in bounded memory."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rft_api.data_formats import read_conversations, read_prompts
from rft_api.invocation_bodies import NotUsable, answer_text, request_messages
from rft_api.invocation_log import InvocationLog, MetadataFilters
from rft_api.invocation_reading import InvocationLogReader, LogFiles, is_body, matches
from rft_api.sources import DataSource

QUESTION = [{"role": "user", "content": "What is the capital of Sudan?"}]
ANSWER = "Khartoum."
CONVERSE_IN = {
    "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
    "messages": [{"role": "user", "content": [{"text": "What is the capital"}, {"text": " of Sudan?"}]}],
    "inferenceConfig": {"maxTokens": 512, "temperature": 0.7},
}
CONVERSE_OUT = {
    "output": {"message": {"role": "assistant", "content": [{"text": ANSWER}]}},
    "stopReason": "end_turn",
    "metrics": {"latencyMs": 302},
    "usage": {"inputTokens": 4, "outputTokens": 38, "totalTokens": 42},
}
BRIEF = [{"role": "system", "content": "Be brief."}, *QUESTION]


def record(request: Any = CONVERSE_IN, answer: Any = CONVERSE_OUT, **fields: Any) -> dict[str, Any]:
    return {
        "schemaType": "ModelInvocationLog",
        "schemaVersion": "1.0",
        "timestamp": "2025-03-11T00:38:02Z",
        "accountId": "123456789012",
        "identity": {"arn": "arn:aws:iam::123456789012:user/someone"},
        "region": "us-east-1",
        "requestId": "ff4b6c63-5561-4431-93b8-06a817275900",
        "operation": "Converse",
        "modelId": "amazon.nova-lite-v1:0",
        "input": {"inputContentType": "application/json", "inputBodyJson": request, "inputTokenCount": 4},
        "output": {"outputContentType": "application/json", "outputBodyJson": answer, "outputTokenCount": 38},
        **fields,
    }


def asking(text: str, **fields: Any) -> dict[str, Any]:
    return record({"messages": [{"role": "user", "content": [{"text": text}]}]}, **fields)


def written(file: Path, *records: Any, compressed: bool = False) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in records)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    return file


def read(path: Path, with_answers: bool = False, **options: Any):
    reader = InvocationLogReader(path, InvocationLog.model_validate(options), with_answers)
    prompts = list(reader)
    report = reader.report()
    assert report.taken == len(prompts)
    assert report.records == report.taken + sum(report.left_out.values())
    return prompts, report


LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat is the capital of Sudan?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
BODIES = [
    (CONVERSE_IN, CONVERSE_OUT, BRIEF),
    (  # Anthropic's messages
        {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "system": "Be brief.", "messages": QUESTION},
        {"type": "message", "role": "assistant", "content": [{"type": "text", "text": ANSWER}], "stop_reason": "x"},
        BRIEF,
    ),
    (  # with what the model thought, and parts
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]},
        {"content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": ANSWER}]},
        QUESTION,
    ),
    (  # as InvokeModelWithResponseStream logs it
        {"messages": QUESTION},
        [
            {"type": "message_start", "message": {"role": "assistant", "content": []}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Khar"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "toum."}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
            {"type": "message_stop"},
        ],
        QUESTION,
    ),
    (  # Nova
        {"schemaVersion": "messages-v1", "system": [{"text": "Be brief."}], "messages": CONVERSE_IN["messages"]},
        [{"messageStart": {"role": "assistant"}}, {"contentBlockDelta": {"delta": {"text": ANSWER}}}, {"metadata": {}}],
        BRIEF,
    ),
    (  # OpenAI's chat completions, as gpt-oss, Mistral and Jamba have them
        {"model": "openai.gpt-oss-20b-1:0", "messages": BRIEF},
        {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}]},
        BRIEF,
    ),
    (  # OpenAI's completions
        {"prompt": [QUESTION[0]["content"]], "max_tokens": 9},
        {"object": "text_completion", "choices": [{"index": 0, "text": ANSWER, "finish_reason": "stop"}]},
        QUESTION,
    ),
    (
        {"messages": BRIEF, "stream": True},
        [
            {"choices": [{"delta": {"content": "Khar"}}]},
            {"choices": [{"delta": {"content": "toum."}}]},
            {"choices": []},
        ],
        BRIEF,
    ),
    (  # OpenAI's responses
        {"instructions": "Be brief.", "input": QUESTION[0]["content"]},
        {"output": [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": ANSWER}]}]},
        BRIEF,
    ),
    (  # Llama: a prompt that is written in the model's template
        {"prompt": LLAMA, "max_gen_len": 2048, "temperature": 0.1},
        {"generation": ANSWER, "prompt_token_count": 15, "generation_token_count": 12, "stop_reason": "stop"},
        BRIEF,
    ),
    (
        {"prompt": "<s>[INST] What is the capital of Sudan? [/INST]"},
        {"outputs": [{"text": ANSWER, "stop_reason": "stop"}]},
        QUESTION,
    ),
    (
        {"inputText": QUESTION[0]["content"]},
        {"results": [{"outputText": ANSWER, "completionReason": "FINISH"}]},
        QUESTION,
    ),
    (
        {"message": QUESTION[0]["content"], "chat_history": [{"role": "USER", "message": "Hi"}]},
        {"text": ANSWER, "finish_reason": "COMPLETE"},
        [{"role": "user", "content": "Hi"}, *QUESTION],
    ),
    ({"prompt": QUESTION[0]["content"]}, {"choices": [{"text": ANSWER, "stop_reason": "stop"}]}, QUESTION),
    (  # Llama 2
        {"prompt": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat is the capital of Sudan? [/INST]"},
        {"generation": f"  {ANSWER}", "stop_reason": "stop"},
        BRIEF,
    ),
    (  # older models of Anthropic
        {"prompt": "Be brief.\n\nHuman: What is the capital of Sudan?\n\nAssistant:", "max_tokens_to_sample": 9},
        {"completion": f" {ANSWER}", "stop_reason": "stop_sequence", "stop": "\n\nHuman:"},
        BRIEF,
    ),
    (  # DeepSeek, which begins with what it thinks
        {"prompt": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>What is the capital of Sudan?<｜Assistant｜><think>\n"},
        {"choices": [{"text": f"Not Cairo.\n</think>\n\n{ANSWER}", "stop_reason": "stop"}]},
        BRIEF,
    ),
    (  # ChatML, of imported models
        {
            "prompt": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the capital of Sudan?"
            "<|im_end|>\n<|im_start|>assistant\n"
        },
        {"generation": ANSWER, "stop_reason": "stop"},
        BRIEF,
    ),
    (  # gpt-oss, with what it thought in the text
        {"messages": BRIEF},
        {"choices": [{"message": {"content": f"<reasoning>Hm.</reasoning>{ANSWER}"}, "finish_reason": "stop"}]},
        BRIEF,
    ),
]


@pytest.mark.parametrize(("request_body", "answer_body", "messages"), BODIES)
def test_every_format_of_bodies(tmp_path, request_body, answer_body, messages):
    file = written(tmp_path / "log.json", record(request_body, answer_body))
    (prompt,), _ = read(file, with_answers=True)
    assert prompt.messages == messages
    assert prompt.answer == ANSWER
    assert prompt.metadata["modelId"] == "amazon.nova-lite-v1:0"


IMAGE = {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/x.png"}}}}
TOOL_USE = {"toolUse": {"toolUseId": "t", "name": "search", "input": {}}}
FIRST_TURNS = [
    {"role": "user", "content": [{"text": "Hi"}]},
    {"role": "assistant", "content": [{"reasoningContent": {"reasoningText": {"text": "Hm"}}}, {"text": "Hello"}]},
]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (record({"messages": [{"role": "user", "content": [IMAGE, {"text": "What is it?"}]}]}), "NotText"),
        (record({"messages": [*FIRST_TURNS, {"role": "user", "content": [{"toolResult": {}}]}]}), "NotText"),
        (record({"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]}), "NotText"),
        (record({"inputText": "x"}, {"embedding": [0.1]}), "NotText"),
        (record({"inputText": "x"}, None, modelId="amazon.titan-embed-text-v2:0"), "NotText"),
        (record({"prompt": "a cat"}, {"images": ["iVBOR"]}), "NotText"),
        (record({"messages": [{"role": "user", "content": [{"text": "  "}]}]}), "NoPrompt"),
        (record({"messages": []}), "NoPrompt"),
        (record({"system": "Be brief.", "messages": [{"role": "assistant", "content": "x"}]}), "NoPrompt"),
        (record({"taskType": "TEXT_IMAGE", "textToImageParams": {"text": "a cat"}}), "UnknownBody"),
        (record({"messages": [{"role": "robot", "content": "x"}]}), "UnknownBody"),
        (record({"prompt": ["a", "b"]}, {"choices": [{"text": "c"}, {"text": "d"}]}), "UnknownBody"),
        (record({"prompt": []}), "UnknownBody"),
        (record({"prompt": [[74, 75]]}), "UnknownBody"),
        (record("{broken"), "UnknownBody"),
        (record(None), "BodyMissing"),
        (record(input={"inputBodyS3Path": "s3://b/data/gone_input.json.gz"}), "BodyMissing"),
        (record(input=None), "BodyMissing"),
        (record(errorCode="ThrottlingException", output=None), "ErrorResponse"),
        (record(status=400), "ErrorResponse"),
        (record(CONVERSE_IN, None), "NoAnswer"),
        (record(output={"outputBodyS3Path": "s3://b/data/gone_output.json.gz"}), "BodyMissing"),
        (record(CONVERSE_IN, {**CONVERSE_OUT, "stopReason": "max_tokens"}), "NoAnswer"),
        (record(CONVERSE_IN, {**CONVERSE_OUT, "stopReason": "model_context_window_exceeded"}), "NoAnswer"),
        # These texts are a guardrail's or a filter's, not the model's.
        (record(CONVERSE_IN, {**CONVERSE_OUT, "stopReason": "guardrail_intervened"}), "NoAnswer"),
        (record(CONVERSE_IN, {"content": [{"type": "text", "text": "No."}], "stop_reason": "refusal"}), "NoAnswer"),
        (
            record(CONVERSE_IN, {"generation": "Blocked.", "amazon-bedrock-guardrailAction": "INTERVENED"}),
            "NoAnswer",
        ),
        (
            record({"inputText": "x"}, {"results": [{"outputText": "Sorry", "completionReason": "CONTENT_FILTERED"}]}),
            "NoAnswer",
        ),
        (record({"prompt": "x"}, {"generations": [{"text": "Khar", "finish_reason": "MAX_TOKENS"}]}), "NoAnswer"),
        (record({"messages": QUESTION}, [{"outputText": "Khar"}, {"modelStreamErrorException": {}}]), "NoAnswer"),
        (record({"messages": QUESTION}, {"generation": "<think>Hm, the Nile"}), "NoAnswer"),
        (record({"messages": QUESTION}, {"generation": "<reasoning>Hm</reasoning> "}), "NoAnswer"),
        (record(CONVERSE_IN, {"output": {"message": {"content": [{"text": "Let me"}, TOOL_USE]}}}), "NoAnswer"),
        (record(CONVERSE_IN, {"choices": [{"message": {"tool_calls": [{}]}}]}), "NoAnswer"),
        (record(CONVERSE_IN, [{"type": "content_block_start", "content_block": {"type": "tool_use"}}]), "NoAnswer"),
        ("{broken", "Unreadable"),
        ("[1]", "Unreadable"),
        ('{"schemaType": "Other", "modelId": "m", "input": {}}', "Unreadable"),
        ('{"modelId": "m"}', "Unreadable"),
        ("[" * 100_000, "Unreadable"),
    ],
)
def test_what_is_left_out_and_why(tmp_path, line, reason):
    prompts, report = read(written(tmp_path / "log.json", asking("fine"), line), with_answers=True)
    assert len(prompts) == 1
    assert report.left_out == {reason: 1}
    assert bool(report.unreadable) == (reason == "Unreadable")
    if report.unreadable:
        assert report.unreadable[0].startswith("log.json:2: is not ")


def test_exports_of_cloudwatch_logs_have_the_time_before_each_record(tmp_path):
    lines = [f"2025-03-11T00:38:0{second}.123Z {json.dumps(asking(f'{second}?'))}" for second in (1, 2)]
    prompts, _ = read(written(tmp_path / "000000.gz", *lines, compressed=True))
    assert [prompt.messages[0]["content"] for prompt in prompts] == ["1?", "2?"]


def test_without_a_reference_the_answer_does_not_matter(tmp_path):
    (prompt,), _ = read(written(tmp_path / "log.json", record(CONVERSE_IN, None)))
    assert prompt.answer is None


def test_the_start_of_an_answer_that_the_application_wrote_belongs_to_the_answer(tmp_path):
    body = {"messages": [*QUESTION, {"role": "assistant", "content": "{"}]}
    (prompt,), _ = read(written(tmp_path / "log.json", record(body, {"generation": '"city": 1}'})), with_answers=True)
    assert prompt.messages == QUESTION
    assert prompt.answer == '{"city": 1}'


def test_identical_prompts_are_taken_once(tmp_path):
    lines = [asking("a"), asking("b"), asking("a", requestId="other"), asking("a", modelId="m2")]
    prompts, report = read(written(tmp_path / "log.json", *lines))
    assert [p.messages[0]["content"] for p in prompts] == ["a", "b"]
    assert report.left_out == {"Duplicate": 2}


def test_a_folder_is_read_in_the_order_of_names_and_bodies_are_found_in_it(tmp_path):
    hours = tmp_path / "AWSLogs/123456789012/BedrockModelInvocationLogs/us-east-1/2025/03/11"
    key = "AWSLogs/123456789012/BedrockModelInvocationLogs/us-east-1/2025/03/11/00/data"
    large = record(
        input={"inputBodyS3Path": f"s3://logs/{key}/1_input.json.gz"},
        output={"outputBodyS3Path": f"s3://logs/{key}/1_output.json.gz"},
    )
    written(hours / "00/20250311T003802_b.json.gz", asking("1"), large, compressed=True)
    written(hours / "01/20250311T013802_a.json", asking("2"))
    written(hours / "00/data/1_input.json.gz", CONVERSE_IN, compressed=True)
    written(hours / "00/data/1_output.json.gz", CONVERSE_OUT, compressed=True)
    (hours / "00/data/1_image.png").write_bytes(b"\x89PNG")
    (tmp_path / "amazon-bedrock-logs-permission-check").touch()
    # From the bucket's root, from a day, and from a copy of one hour.
    for root, name in ((tmp_path, "2"), (hours, "2"), (hours / "00", "of Sudan?")):
        prompts, report = read(root, with_answers=True)
        assert prompts[1].messages == BRIEF
        assert prompts[1].answer == ANSWER
        assert prompts[-1].messages[-1]["content"].endswith(name)
        assert report.left_out == {}
    assert prompts[0].place == "20250311T003802_b.json.gz:1"


def test_a_body_is_not_looked_for_outside_the_folder(tmp_path):
    written(tmp_path / "secret.json", CONVERSE_IN)
    for address in ("s3://../secret.json", "s3://b/../secret.json", "../secret.json", f"{tmp_path}/../secret.json"):
        file = written(tmp_path / "logs/log.json", record(input={"inputBodyS3Path": address}))
        assert read(file)[1].left_out == {"BodyMissing": 1}


def test_damaged_files_are_named_and_the_others_are_read(tmp_path):
    whole = gzip.compress(b"".join(json.dumps(asking(str(i))).encode() + b"\n" for i in range(1000)))
    (tmp_path / "a.json.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.json.gz").write_bytes(b"\x1f\x8bnothing of the kind")
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(asking("c")).encode() + b"\n\n\xff\xfe\n")
    prompts, report = read(tmp_path)
    assert prompts[-1].messages[0]["content"] == "c"
    assert report.left_out == {"Unreadable": 3}
    assert "cannot be read further" in report.unreadable[0]
    assert report.unreadable[1].startswith("b.json.gz:1: cannot be read further")
    assert report.unreadable[2] == "c.json:3: is not UTF-8 (byte 1 of the line)"


META = {"team": "a", "tier": "gold"}


@pytest.mark.parametrize(
    ("filters", "metadata", "expected"),
    [
        ({"equals": {"team": "a"}}, META, True),
        ({"equals": {"team": "b"}}, META, False),
        ({"equals": {"gone": "a"}}, META, False),
        ({"equals": {"team": "a"}}, {}, False),
        ({"notEquals": {"team": "a"}}, META, False),
        ({"notEquals": {"team": "b"}}, META, True),
        ({"notEquals": {"gone": "b"}}, META, True),
        ({"andAll": [{"equals": {"team": "a"}}, {"equals": {"tier": "gold"}}]}, META, True),
        ({"andAll": [{"equals": {"team": "a"}}, {"equals": {"tier": "x"}}]}, META, False),
        ({"andAll": [{"equals": {"team": "a"}, "notEquals": {"tier": "gold"}}]}, META, False),
        ({"orAll": [{"equals": {"team": "b"}}, {"equals": {"tier": "gold"}}]}, META, True),
        ({"orAll": [{"equals": {"team": "b"}}, {"notEquals": {"tier": "gold"}}]}, META, False),
        ({"orAll": [{"equals": {"team": "a"}, "notEquals": {"tier": "gold"}}, {"equals": {"tier": "x"}}]}, META, False),
    ],
)
def test_filters_on_metadata(filters, metadata, expected):
    assert matches(MetadataFilters.model_validate(filters), metadata) is expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"modelIds": ["amazon.nova-lite-v1:0"]}, None),
        ({"modelIds": ["other", "us.amazon.nova-lite-v1:0"]}, "OtherModel"),
        ({"from": "2025-03-11T00:38:02Z"}, None),
        ({"from": "2025-03-11T01:38:02+01:00", "to": "2025-03-11T00:38:03Z"}, None),
        ({"from": "2025-03-11T00:38:03Z"}, "OtherTime"),
        ({"to": "2025-03-11T00:38:02Z"}, "OtherTime"),
        ({"requestMetadataFilters": {"equals": {"team": "a"}}}, None),
        ({"requestMetadataFilters": {"equals": {"team": "b"}}}, "Filtered"),
    ],
)
def test_filters_on_records(tmp_path, options, reason):
    file = written(tmp_path / "log.json", record(requestMetadata={"team": "a", "odd": 3}))
    assert read(file, **options)[1].left_out == ({reason: 1} if reason else {})


def test_a_profile_is_named_by_the_end_of_its_arn(tmp_path):
    arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-lite-v1:0"
    file = written(tmp_path / "log.json", record(modelId=arn))
    assert read(file, modelIds=["us.amazon.nova-lite-v1:0"])[1].taken == 1
    assert read(file, modelIds=[arn])[1].taken == 1


def test_a_record_without_a_time_is_left_out_when_a_time_is_stated(tmp_path):
    file = written(tmp_path / "log.json", record(timestamp="noon"), record(timestamp=3), record(timestamp=None))
    assert read(file, to="2099-01-01T00:00:00Z")[1].left_out == {"OtherTime": 3}
    assert read(file)[1].taken == 1


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("AWSLogs/1/BedrockModelInvocationLogs/us-east-1/2025/03/11/00/x.json.gz", True),
        ("2025/03/11/00/data/1_input.json.gz", True),
        ("2025/03/11/00/data/1_image.png", False),
        ("2025/03/10/22/x.json.gz", False),
        ("2025/03/10/23/x.json.gz", True),  # the hour that the range begins in
        ("2025/03/13/00/x.json.gz", True),  # delivered late
        ("2025/03/14/00/x.json.gz", False),
        ("2025/99/99/00/x.json.gz", True),
        ("x.json", True),
    ],
)
def test_objects_of_other_days_are_not_even_fetched(name, wanted):
    options = InvocationLog.model_validate({"from": "2025-03-10T23:30:00Z", "to": "2025-03-12T12:00:00Z"})
    assert LogFiles(options.from_, options.to)(name) is wanted
    assert is_body("a/data/x.json")
    assert not is_body("a/data.json")


def test_texts_are_redacted_before_anything_else_sees_them(tmp_path):
    lines = [
        record(
            {"messages": [{"role": "user", "content": f"I am {name}@example.org, tel 030-1234"}]},
            {"generation": f"Hello {name}@example.org"},
            requestMetadata={"user": f"{name}@example.org"},
        )
        for name in ("ann", "bob")
    ]
    patterns = [
        {"pattern": r"[\w.+-]+@([\w-]+)\.\w+", "replacement": r"<someone at \1>"},
        {"pattern": r"\b\d{3}-\d{4}\b"},
    ]
    (prompt,), report = read(written(tmp_path / "log.json", *lines), with_answers=True, redact={"patterns": patterns})
    assert prompt.messages[0]["content"] == "I am <someone at example>, tel [redacted]"
    assert prompt.answer == "Hello <someone at example>"
    assert prompt.metadata["requestMetadata"] == {"user": "<someone at example>"}
    # What differed was a name only.
    assert report.left_out == {"Duplicate": 1}


def test_a_record_that_redaction_makes_too_long_is_left_out_with_its_line(tmp_path):
    lines = [record({"messages": [{"role": "user", "content": "x" * size}]}) for size in (2, 30)]
    patterns = [{"pattern": ".", "replacement": "y" * 256}] * 3
    prompts, report = read(written(tmp_path / "log.json", *lines), redact={"patterns": patterns[:2]})
    assert [len(prompt.messages[0]["content"]) for prompt in prompts] == [2 * 256**2, 30 * 256**2]
    prompts, report = read(written(tmp_path / "log.json", *lines), redact={"patterns": patterns})
    assert prompts == []
    assert report.left_out == {"Unreadable": 2}
    assert report.unreadable[0] == "log.json:1: is longer than 16 MiB once its texts are redacted"


@pytest.mark.parametrize("pattern", ["(", "(?=x)", r"(a)\1"])
def test_patterns_are_checked_before_anything_is_read(tmp_path, pattern):
    file = written(tmp_path / "log.json", record())
    with pytest.raises(ValueError, match=r"redact\.patterns: .* is not a regular expression that RE2 knows"):
        read(file, redact={"patterns": [{"pattern": pattern}]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"from": "yesterday"}, "must look like 2026-01-31T12:00:00Z"),
        ({"from": "2025-03-11T00:00:00"}, "must look like 2026-01-31T12:00:00Z"),
        ({"from": "2025-03-11T00:00:00Z", "to": "2025-03-11T00:00:00Z"}, "from must be before to"),
        ({"requestMetadataFilters": {"equals": {"a": "1"}, "notEquals": {"b": "1"}}}, "set exactly one of equals"),
        ({"requestMetadataFilters": {"andAll": [{}]}}, "set equals, notEquals or both"),
        ({"requestMetadataFilters": {"equals": {"a": "1", "b": "2"}}}, "at most 1 item"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"model": ["x"]}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        InvocationLog.model_validate(options)


def test_the_limit_ends_reading(tmp_path):
    prompts, report = read(written(tmp_path / "log.json", *(asking(str(i)) for i in range(9)), "{broken"), limit=3)
    assert len(prompts) == 3
    assert report.records == 3
    assert report.limited
    assert str(report) == "3 of 3 records taken; stopped at the limit"


def log_source(path, options):
    return DataSource(name="s", uri=str(path), reward="r", format="BedrockInvocationLog", invocation_log=options)


def test_prompts_and_conversations_of_a_source(tmp_path):
    file = written(tmp_path / "log.json", record(), record(CONVERSE_IN, None), asking("x"))
    problems: list[str] = []
    source = log_source(file, InvocationLog(reference="LoggedAnswer"))

    def refuse(messages):
        if messages[0]["content"] == "x":
            raise ValueError("no")

    (prompt,), report = read_prompts(source, problems, refuse)
    assert (prompt.id, prompt.reward, prompt.reference_answer, prompt.line) == ("s-1", "r", ANSWER, 1)
    assert report is not None
    assert report.left_out == {"NoAnswer": 1, "ChatTemplate": 1}
    assert str(report) == "1 of 3 records taken; left out: 1 NoAnswer, 1 ChatTemplate"
    plain = source.model_copy(update={"invocation_log": InvocationLog()})
    first, second = read_conversations(plain, problems)[0]
    assert first.messages == [*BRIEF, {"role": "assistant", "content": ANSWER}]
    assert second.messages[0]["content"] == "x"
    assert [p.reference_answer for p in read_prompts(plain, problems)[0]] == [None, None]
    assert problems == []


def test_a_source_without_a_usable_record_is_a_problem_with_its_counts(tmp_path):
    file = written(tmp_path / "log.json", asking("x"), asking("y"), "{")
    problems: list[str] = []
    options = InvocationLog(model_ids=["other"])
    read_prompts(log_source(file, options), problems)
    read_prompts(log_source(tmp_path / "gone", options), problems)
    empty = tmp_path / "empty"
    empty.mkdir()
    read_prompts(log_source(empty, options), problems)
    assert problems == [
        f"{file}: no record of the invocation logs can be used: 0 of 3 records taken; left out: 2 OtherModel, "
        "1 Unreadable (log.json:3: is not JSON: Expecting property name enclosed in double quotes: "
        "line 2 column 1 (char 2))",
        f"{tmp_path / 'gone'}: No such file or directory",
        f"{empty}: no record of the invocation logs can be used: 0 of 0 records taken",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("assistant"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "role", "content", "text", "type", "prompt", "system", "output", "message", "choices",
                 "delta", "input", "inputBodyJson", "outputBodyJson", "inputBodyS3Path", "generation", "toolUse",
                 "contentBlockDelta", "chat_history", "results", "stopReason", "guardContent", "incomplete_details"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)  # fmt: skip
RECORDS = st.builds(
    lambda request, answer, fields: record(request, answer) | fields,
    JSON | st.just(CONVERSE_IN),
    JSON | st.just(CONVERSE_OUT),
    st.dictionaries(
        st.sampled_from(
            ["timestamp", "modelId", "input", "output", "requestMetadata", "status", "errorCode", "schemaType"]
        ),
        JSON,
        max_size=2,
    ),
)
LINES = st.binary(max_size=40) | st.builds(lambda value: json.dumps(value).encode(), RECORDS | JSON)


@settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(lines=st.lists(LINES, max_size=6), with_answers=st.booleans(), limited=st.booleans(), stated=st.booleans())
def test_whatever_a_log_holds_it_is_read_and_every_line_is_counted(tmp_path, lines, with_answers, limited, stated):
    file = tmp_path / "log.json"
    content = b"\n".join(lines)
    file.write_bytes(content)
    options: dict[str, Any] = {"from": "2000-01-01T00:00:00Z"} if stated else {}
    prompts, report = read(file, with_answers, **options, **({"limit": 1} if limited else {}))
    if not report.limited and content[:2] != b"\x1f\x8b":
        assert report.records == sum(bool(line.strip()) for line in content.split(b"\n"))
    for prompt in prompts:
        assert prompt.messages[-1]["role"] == "user"
        json.dumps(prompt.messages, ensure_ascii=False).encode("utf-8")


@settings(deadline=None, max_examples=400)
@given(body=JSON)
def test_bodies_of_any_shape_are_understood_or_left_out(body):
    for read_body in (request_messages, answer_text):
        try:
            read_body(body)
        except NotUsable:
            continue


PEAK = """
import resource, sys
from pathlib import Path
from rft_api.invocation_log import InvocationLog
from rft_api.invocation_reading import InvocationLogReader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reader = InvocationLogReader(Path(sys.argv[1]), InvocationLog(), with_answers=True)
count = sum(1 for _ in reader)
print(count, reader.report().records, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("one_line", [False, True])
def test_memory_does_not_grow_with_the_log(tmp_path, one_line):
    """A log of 200 MB in one compressed object; the other one is 200 MB without an end of a line."""
    file = tmp_path / "log.json.gz"
    with gzip.open(file, "wb", compresslevel=1) as stream:
        if one_line:
            for _ in range(200):
                stream.write(b"x" * 1_000_000)
            stream.write(b"\n" + json.dumps(record()).encode())
        else:
            for number in range(2000):
                stream.write(json.dumps(asking(f"{number} " + "word " * 20_000)).encode() + b"\n")
    result = subprocess.run([sys.executable, "-c", PEAK, file], capture_output=True, text=True, check=True)
    taken, records, kilobytes = map(int, result.stdout.split())
    assert (taken, records) == ((1, 2) if one_line else (2000, 2000))
    assert kilobytes < 40_000
