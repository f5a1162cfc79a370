"""Answers in sentences: the one value that a sentence states, where it states exactly one."""

from __future__ import annotations

import re

from mm_prm.answers.expressions import Unread
from mm_prm.answers.readings import NUMBER_WORD, Reading, read
from mm_prm.answers.units import BLOCKING, UNITS

# A number, money, or a formula: what may be the value. Words around it are no part of it.
_FORMULA = (
    r"(?:\\\$ ?)?(?:-?(?<![\w.,])(?:\d[\d.,:/]*\d|\d)|\\[a-zA-Z]+(?: ?[{\[][^{}]*(?:\{[^{}]*\}[^{}]*)*[}\]])*"
    r"|(?<![a-zA-Z])[a-zA-Z](?= ?[=+*/^<>-])|[-+*/^=()<>!%|{}_]|(?<=[\d})]) ?[a-z](?![a-zA-Z])|\^ ?\\circ|\\pi)"
)
_CHUNK = re.compile(rf"{_FORMULA}(?: ?{_FORMULA})*")
_HEDGED = re.compile(
    r"\b(?:the|these|those|his|her|its|their|of|each|every|another|other|first|last|next) ?$", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?;] +(?=[A-Z\u4e00-\u9fff])|; ")
_FRACTION_WORD = re.compile(
    r"\b(?:half|third|quarter|twice|thrice|double|triple|dozen|once|both|none|nobody|nothing)\b", re.IGNORECASE
)
_ROUGHLY = re.compile(
    r"\b(?:approximately|about|roughly|around|approx\.?|equal to|is to|up to a total of)\b|约为?|大约|共[有是]?|一共|和为",
    re.IGNORECASE,
)
_NEUTRAL = re.compile(
    r"\b(?:in total|altogether|and so|in all|by the end|per|so|thus|hence|therefore|then|by)\b", re.IGNORECASE
)


def stated(answer: str) -> Reading | None:
    """The value that every sentence of an answer states. None where one states none, two, or one with conditions."""
    found: list[Reading] = []
    for sentence in _SENTENCE_END.split(answer):
        if not sentence.strip():
            continue
        reading = _stated_once(sentence.strip(' .!"'))
        if reading is None or (found and reading != found[0]):
            return None
        found.append(reading)
    return found[0] if found else None


def _stated_once(sentence: str) -> Reading | None:
    if not re.search(r"[a-zA-Z]{2}|[\u4e00-\u9fff]", sentence):
        return None
    chunks = [found for found in _CHUNK.finditer(sentence) if re.search(r"\d|\\[a-z]", found.group())]
    words = list(NUMBER_WORD.finditer(sentence))
    if len(chunks) + len(words) != 1:
        return None
    found = (chunks or words)[0]
    before, behind = sentence[: found.start()], sentence[found.end() :]
    around = _NEUTRAL.sub(" ", _ROUGHLY.sub(" ", f"{before} # {behind}"))
    if (
        _HEDGED.search(before)
        or _FRACTION_WORD.search(around)
        or BLOCKING.search(around)
        or re.search(r"[\d\\=<>]", around)
    ):
        return None
    return _with_its_unit(found.group().strip(" .,:"), behind)


def _with_its_unit(number: str, behind: str) -> Reading | None:
    """`79 miles per hour to go` has the unit miles per hour: the longest that is one, of the words behind a number."""
    words = re.split(r"(?<=\s)|(?=[.,;:!?\"])", behind.strip())
    for count in range(min(len(words), 5), 0, -1):
        unit = "".join(words[:count]).strip()
        if re.match(r"square|cubic|sq|cu", unit) or words[0].strip() in UNITS or behind.startswith(("^", "%", "'")):
            try:
                return read(f"{number} {unit}") if count < len(words) or unit else read(number)
            except Unread:
                continue
    try:
        return read(number)
    except Unread:
        return None
