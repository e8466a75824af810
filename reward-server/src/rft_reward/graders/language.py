"""Detects the language of a text with the tables in the library of pycld2. Nothing is downloaded."""

from __future__ import annotations

import pycld2

from rft_reward.text import writable

_OLD_CODES = {"he": "iw", "jv": "jw"}
"""Codes that ISO has changed, and their former codes, which the tables use."""


def is_in(text: str, language: str) -> bool:
    """Return whether most of the text is in the language of an ISO 639 code. For a short text, this language is
    preferred."""
    code = _OLD_CODES.get(language, language)
    printable = "".join(character if character.isprintable() else " " for character in writable(text))
    try:
        _, _, languages = pycld2.detect(printable, hintLanguage=code, bestEffort=True)
    except pycld2.error:
        return False
    return str(languages[0][1]).partition("-")[0] == code
