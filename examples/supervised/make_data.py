"""Makes data/{answers,validation,test}.jsonl from the quickstart's rows, without the example in their prompts.

    python make_data.py

The quickstart's rows come from GSM8K (MIT licence, copyright (c) 2021 OpenAI). All three files are committed; this
script says where they come from and makes the same files again. No row is in two of them.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "quickstart" / "data"
ANSWERS, VALIDATION, TEST = 160, 40, 60


def read(name: str) -> list[dict[str, Any]]:
    """The rows of one of the quickstart's files, with the system's message and the last question only."""
    rows = [json.loads(line) for line in (QUICKSTART / name).read_text(encoding="utf-8").splitlines()]
    return [{**row, "messages": [row["messages"][0], row["messages"][-1]]} for row in rows]


def conversation(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its reference answer as the assistant's message, which is imitated."""
    answer = json.dumps(row["reference_answer"], ensure_ascii=False)
    return {"messages": [*row["messages"], {"role": "assistant", "content": answer}]}


def main() -> None:
    """Writes the three files and prints how many rows each has."""
    files = {
        "answers": [conversation(row) for row in read("train.jsonl")[:ANSWERS]],
        "validation": [conversation(row) for row in read("validation.jsonl")[:VALIDATION]],
        "test": read("test.jsonl")[:TEST],
    }
    (HERE / "data").mkdir(exist_ok=True)
    for name, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (HERE / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(lines)} rows")


if __name__ == "__main__":
    main()
