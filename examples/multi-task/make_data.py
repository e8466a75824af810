"""Makes data/words.jsonl and data/sentiment.jsonl from GSM8K and chABSA.

    python make_data.py GSM8K.jsonl CHABSA.jsonl [--output DIR]

The arguments are the data sets in chat format, one {"messages": [...], "reference_answer": {...}} a line: GSM8K with
the question as the user's message and `final_answer`, chABSA with "Sentence: ...\\nTarget: ..." and `sentiment`. Both
output files are committed; this script says where they come from and makes the same files again.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

WORDS, LABELLED, MAX_CHARACTERS = 80, 35, 160


def word_problems(path: Path) -> list[dict[str, Any]]:
    """The shortest questions with at most two calculations and a whole number as answer, each after one example."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        given = json.loads(line)
        question = re.sub(r"\s+", " ", given["messages"][-1]["content"].split(" Let's think step by step")[0])
        answer = given["reference_answer"]
        easy = answer["text"].count("<<") <= 2 and answer["final_answer"].isdigit()
        if easy and len(question) <= MAX_CHARACTERS:
            messages = [
                {"role": "user", "content": "A pen costs $3. How much do 4 pens cost?"},
                {"role": "assistant", "content": "3 * 4 = 12 #### 12"},
                {"role": "user", "content": question},
            ]
            rows.append({"messages": messages, "reference_answer": answer["final_answer"]})
    rows.sort(key=lambda row: len(row["messages"][-1]["content"]))
    return rows[:WORDS]


def sentiments(path: Path) -> list[dict[str, Any]]:
    """The shortest sentences of financial reports, as many positive as negative ones."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: len(row["messages"][-1]["content"]))
    chosen: dict[str, list[dict[str, Any]]] = {"positive": [], "negative": []}
    for given in rows:
        sentiment = given["reference_answer"]["sentiment"]
        if len(chosen.get(sentiment, [None] * LABELLED)) < LABELLED:
            messages = [
                {"role": "system", "content": "Is this good news for the target? Answer positive or negative."},
                {"role": "user", "content": given["messages"][-1]["content"]},
            ]
            chosen[sentiment].append({"messages": messages, "reference_answer": sentiment, "language": "ja"})
    return [row for pair in zip(chosen["positive"], chosen["negative"], strict=True) for row in pair]


def main() -> None:
    """Writes the two files and prints how many rows each has."""
    parser = argparse.ArgumentParser(description="Makes the data files of the multi-task example.")
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("chabsa", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, rows in {"words": word_problems(arguments.gsm8k), "sentiment": sentiments(arguments.chabsa)}.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (arguments.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(lines)} rows")


if __name__ == "__main__":
    main()
