"""docs/security.md holds the attacks that are tested, and what contains them (`RFT_UPDATE_GOLDEN=1` writes it)."""

import os
import re
from pathlib import Path

from reward_attacks import ATTACKS

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
PART = re.compile(r"<!-- attacks -->\n(.*?)<!-- end -->", re.DOTALL)


def table():
    rows = [f"| {attack.does} | {attack.by} | {'✓' * attack.succeeds_without} |" for attack in ATTACKS]
    return "\n".join(["| The code ... | Contained by | Real |", "|---|---|---|", *rows, ""])


def test_the_page_has_every_attack_and_what_contains_it():
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("RFT_UPDATE_GOLDEN"):
        text = PART.sub(lambda _: f"<!-- attacks -->\n{table()}<!-- end -->", text)
        PAGE.write_text(text, encoding="utf-8")
    assert PART.search(text)[1] == table()


def test_every_function_of_the_attacks_is_one_of_them():
    source = (Path(__file__).parent / "attack_code.py").read_text(encoding="utf-8")
    assert {attack.name for attack in ATTACKS} == set(re.findall(r"^def (\w+)\(world\):", source, re.MULTILINE))
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 30
