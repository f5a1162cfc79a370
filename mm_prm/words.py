"""How long a text is, in words of any script."""

from __future__ import annotations

import re

# Scripts without spaces: a Chinese character or kana is a word of its own, four letters of Thai, Lao, Burmese or Khmer
# are one, about the length of theirs. East Asian punctuation only parts words.
_ALONE = r"\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
_ALONE += r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_RUNS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_MARKS = r"\u3001-\u3004\u3008-\u3020\u302a-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_WORD = re.compile(rf"[{_ALONE}]|[{_RUNS}]{{1,4}}|[^\s{_ALONE}{_RUNS}{_MARKS}]+")


def count_words(text: str) -> int:
    """Words between white space (Korean has it); of scripts without any, characters of _ALONE and pieces of _RUNS.

    A word or formula inside a Chinese text ends where the Chinese goes on: `得x=1。` are two words.
    """
    return len(text.split()) if text.isascii() else sum(1 for _ in _WORD.finditer(text))
