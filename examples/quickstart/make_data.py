"""Makes data/{train,validation,test}.jsonl from the questions of GSM8K (https://github.com/openai/grade-school-math).

    python make_data.py GSM8K_TRAIN.jsonl GSM8K_VALIDATION.jsonl [--output DIR]

The arguments are GSM8K questions in chat format, one {"messages": [{"role": "user", "content": QUESTION}]} a line.
GSM8K is published under the MIT licence, copyright (c) 2021 OpenAI. The three files are committed; this script says
where they come from and makes the same files again.

The task: one sentence that holds exactly one amount -> {"value": "540", "unit": "$"}. Prompt and settings were chosen
while looking at sentences of the second file, therefore the test split comes from the first file only.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED, TEST, VALIDATION, MAX_CHARACTERS = 20240, 200, 64, 70
AMOUNT = re.compile(r"\$?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?%?")
COUNTED = re.compile(r"(?<![\w$.])(\d+(?:,\d{3})*(?:\.\d+)?) ([a-z]+)\b")
# Words after a number that are no unit: such a sentence has no unambiguous answer.
NO_UNIT = frozenset(
    """a additional an and are as at but by different each extra for from he if in is less more new of on or other out
    per she so than that the then they times to was were when who with""".split()  # noqa: SIM905
)
Sentence = tuple[str, str, str]  # text, value, unit


def sentences(path: Path) -> Iterator[Sentence]:
    """The sentences of the questions in `path` that hold exactly one amount with a unit, in file order."""
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)["messages"][0]["content"].split(" Let's think step by step")[0]
        for text in re.split(r"(?<=[.?!]) (?=[A-Z])", re.sub(r"\s+", " ", question)):
            amounts = AMOUNT.findall(text)
            if len(amounts) != 1 or len(text) > MAX_CHARACTERS or text.endswith("?"):
                continue
            amount = amounts[0]
            counted = COUNTED.search(text)
            if amount.startswith("$"):
                yield text, amount[1:], "$"
            elif amount.endswith("%"):
                yield text, amount[:-1], "%"
            elif counted and counted[2] not in NO_UNIT:
                yield text, counted[1], counted[2]


def answer(value: str, unit: str) -> str:
    """The reply that earns the full reward."""
    return json.dumps({"value": value, "unit": unit})


def row(sentence: Sentence) -> dict[str, Any]:
    """One line of the data files: a one-shot prompt in OpenAI chat format and the reference answer."""
    text, value, unit = sentence
    return {
        "messages": [
            {"role": "system", "content": "Write the amount in the text as JSON."},
            {"role": "user", "content": "Text: Ann walked 12 miles."},
            {"role": "assistant", "content": answer("12", "miles")},
            {"role": "user", "content": f"Text: {text}"},
        ],
        "reference_answer": {"value": value, "unit": unit},
    }


def split(first: Path, second: Path) -> dict[str, list[Sentence]]:
    """The three splits; no sentence is in two of them, however it is written in upper and lower case."""
    seen: set[str] = set()
    pools: list[list[Sentence]] = []
    for path in (first, second):
        pool = []
        for sentence in sentences(path):
            if (key := sentence[0].casefold()) not in seen:
                seen.add(key)
                pool.append(sentence)
        random.Random(SEED).shuffle(pool)
        pools.append(pool)
    untouched, looked_at = pools
    train = untouched[TEST:] + looked_at[VALIDATION:]
    random.Random(SEED).shuffle(train)
    return {"train": train, "validation": looked_at[:VALIDATION], "test": untouched[:TEST]}


def main() -> None:
    """Writes the three files and prints how many rows each has."""
    parser = argparse.ArgumentParser(description="Makes the data files of the quickstart from GSM8K.")
    parser.add_argument("train", type=Path)
    parser.add_argument("validation", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, rows in split(arguments.train, arguments.validation).items():
        lines = [json.dumps(row(sentence), ensure_ascii=False) + "\n" for sentence in rows]
        (arguments.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(lines)} rows")


if __name__ == "__main__":
    main()
