"""Answers in sentences: the one value that a sentence states, where it states exactly one."""

from __future__ import annotations

import re

from mm_prm.answers.compare import compare
from mm_prm.answers.quantities import NUMBER_WORD
from mm_prm.answers.readings import Reading, read_or_none
from mm_prm.answers.text import words
from mm_prm.answers.units import BLOCKING, leading_unit

# A number, money, or a formula: what may be the value. Words around it are no part of it.
_PIECE = (
    r"(?:(?:\\\$|[€£¥]) ?)?(?:-?(?<![A-Za-z0-9_.,])(?:\d[\d.,:/]*\d|\d)"
    r"|\\[a-zA-Z]+(?: ?[{\[[^{}]*(?:\{[^{}]*\}[^{}]*)*[}\]])*"
    r"|(?<![a-zA-Z'])[a-zA-Z](?= ?[=+*/^<>])|[-+*/^=()<>!%|{}_]|(?<=[\d})]) ?[a-z](?![a-zA-Z']|\.? ?m\b)|\^ ?\\circ)"
)
_CHUNK = re.compile(rf"{_PIECE}(?: ?{_PIECE})*")
_SENTENCE_END = re.compile(r"[.!?] +(?=[A-Z\u4e00-\u9fff])|; ")
# In front of a number: words that make it another than the one that is stated
_NOT_STATED = re.compile(
    r"\b(?:not|no|never|neither|nor|non|none|nothing|nobody|without|except|if|unless|either|or|whether|than|least|most|more|less"
    r"|fewer|over|under|above|below|between|within|minus|plus|times|negative|half|third|quarter|twice|thrice|double|triple|dozen"
    r"|cannot|impossible|wrong|incorrect|false|almost|nearly|exceeds?|maybe|perhaps|possibly|could|might|may|would|should|once"
    r"|both|all but|up to|every|each|another|other|before|originally|initially|started|remaining \w+ of|first|next|last"
    r"|instead|unlike|but)\b"
    r"|n't\b|[不非未无没半或]|至[少多]|超过|大于|小于|如果|以[上下内]|[百千万亿倍]",
    re.IGNORECASE,
)
_POSSESSED = re.compile(
    r"(?:\b(?:the|these|those|this|that|his|her|its|their|any|a|step|question|problem|part|day|room|number|year|chapter|figure"
    r"|(?:out|each|some|most|all|any|one|half|rest|part|percent|fraction|members?|pairs?) of|in each|for every) ?|#)$",
    re.IGNORECASE,
)
_BEHIND_PREPOSITIONS = re.compile(
    r"\b(?:in total|in all|by the end|per|every|each|so|after|to|from|by|with|and|under|over)\b", re.IGNORECASE
)
_PROSE = re.compile(r"(?:[A-Za-z\u4e00-\u9fff]|[ ,.'\":;?!%-])*")
_WORD = re.compile(r"[A-Za-z][a-z'-]*|[\u4e00-\u9fff]")
# Behind a number these words begin something else than what is counted
_NO_NOUNS = words(
    "for in at on per every each a an the so which that because since when while is are was were will left remaining"
    " total altogether together now today if this and with by after before under over to from during as"
)
_NEXT_WORD = re.compile(
    r" ?(?:of|to|from|out|and|or|more|less|fewer|times|than|minus|plus|by|over|divided)\b", re.IGNORECASE
)


def stated(answer: str) -> Reading | None:
    """The value that every sentence of an answer states. None where one states none, two, or one with conditions."""
    found: list[Reading] = []
    for sentence in _SENTENCE_END.split(answer):
        reading = _stated_once(sentence.strip(' ."'))
        if reading is None or (found and compare(reading, found[-1]) != "same"):
            return None
        found.append(reading)
    return found[-1] if found else None


def _stated_once(sentence: str) -> Reading | None:
    chunks = [found for found in _CHUNK.finditer(sentence) if re.search(r"\d|\\[a-z]", found.group())]
    chunks = [
        found for found in chunks if not re.match(r"\^", found.group()) or not sentence[found.start() - 1].isalpha()
    ]
    spelt = list(NUMBER_WORD.finditer(sentence))
    if len(chunks) + len(spelt) != 1 or sentence.endswith("?"):
        return None
    found = (chunks or spelt)[0]
    before, behind = sentence[: found.start()], sentence[found.end() :]
    if (
        found.group()[-1] in "!-+*/^=<>_({\\"
        or _NOT_STATED.search(before)
        or _POSSESSED.search(before)
        or _NEXT_WORD.match(behind)
    ):
        return None
    return _with_its_unit(found.group().strip(" .,:"), before, behind)


def _with_its_unit(number: str, before: str, behind: str) -> Reading | None:
    """`79 miles per hour to go`: 79 with the unit that follows, else with what is counted."""
    space = re.match(" ?", behind)
    text = behind[space.end() :] if space else behind
    end = unit.end() if (unit := re.match(r"[ap]\.? ?m\b\.?", text)) else (leading_unit(text) or (None, 0))[1]
    if not end and (word := _WORD.match(text)) and word.group().lower() not in _NO_NOUNS:
        end = word.end()
    rest = text[end:]
    if BLOCKING.search(_BEHIND_PREPOSITIONS.sub(" ", rest)) or not _PROSE.fullmatch(before + " " + rest):
        return None
    return read_or_none(f"{number}{behind[: len(behind) - len(rest)]}".strip(" .,"))
