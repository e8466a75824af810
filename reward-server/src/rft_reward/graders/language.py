"""Guesses the language of a text with the tables that pycld2 carries in its library; nothing is downloaded."""

from __future__ import annotations

import pycld2

from rft_reward.text import writable

_OLD_CODES = {"he": "iw", "jv": "jw"}
"""Codes that the tables have from before ISO changed them."""


def is_in(text: str, language: str) -> bool:
    """Whether most of the text is in the language of an ISO 639 code; a doubtful short text gets its benefit."""
    code = _OLD_CODES.get(language, language)
    printable = "".join(character if character.isprintable() else " " for character in writable(text))
    try:
        _, _, found = pycld2.detect(printable, hintLanguage=code, bestEffort=True)
    except pycld2.error:
        return False
    return str(found[0][1]).partition("-")[0] == code
