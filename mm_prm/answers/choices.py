"""Letters of multiple choice: which one a reference asks for, and which one an answer takes."""

from __future__ import annotations

import re
from collections.abc import Callable

from mm_prm.answers.values import Glance

LETTERS = "A-J"
_FIRST = set("ABCDEFGHIJ([")
_REFERENCE = re.compile(rf"(?:[(\[]([{LETTERS}])[)\]][.:]?|([{LETTERS}])(?:[.:)]|$)) ?(.*)")
_SEVERAL = re.compile(rf"\(?[{LETTERS}]\)?(?:(?:,? (?:and|&) |[和及]|[,;. ]*)\(?[{LETTERS}]\)?)+")
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:i (?:think|believe|choose|pick|select) )?(?:it'?s |it is )?"
    r"(?:(?:the )?(?:(?:correct|right|final|best) )*(?:answer|choice|option)s?(?: is| should be| would be)?:? ?)?"
    r"(?:(?:option|choice|answer):? )?(?:(?:所以|因此|故)?(?:正确)?(?:答案|选项|选择|应选|选)(?:应?[是为选])?:? ?)?",
    re.IGNORECASE,
)
# B, (B), b), [B], B. 75, (B) 75, B 75, B (75); neither "A line" nor "A, C" nor "I 5"
_CHOSEN = re.compile(
    r"[(\[]([a-z])[)\]][.:,]? ?(.*)|([a-z])(?:[.:)] ?(.*)|, ?(?=[\d\\$(-]|(?!or|and|not|but)[a-z]{2})(.*)"
    r"| ?(?=\()(.*)|(?<![AaIi]) (?=[\d\\$-])(.*))?",
    re.IGNORECASE,
)
_OTHER = re.compile(rf"(?<![a-zA-Z])(?:[{LETTERS}][.):]|\([{LETTERS}]\))")  # a letter that may be the answer
_AFFIRMED = re.compile(
    rf"(?:option )?[(\[]?([{LETTERS}])[)\]]? (?:is|seems) (?:the )?(?:correct|right|best)(?: (?:answer|option|choice))?"
)
_TAKEN_BACK = re.compile(
    rf"^ ?(?:(?:is|was|are)(?:n't| not| wrong| incorrect| false)"
    rf"|[,;/&+] ?[(\[]?[{LETTERS}]\b|(?:or|and|或|和)\b|[(\[]?[{LETTERS}][)\].:,;])"
    rf"|\b(?:or|and|maybe|actually|instead|rather|wait),? \(?[{LETTERS}]\)?(?:[.,;:]|$)|[或和]\(?[{LETTERS}]"
)


def chosen(answer: str) -> tuple[str, str] | None:
    """The one letter that an answer takes, with what stands behind it; None where it takes none, or perhaps several."""
    answer = (
        answer.strip('" \\$*').rstrip("}]")
        if answer[-1:] in "}]" and "{" not in answer and "[" not in answer
        else answer
    )
    answer = answer.strip('" $*')
    if found := re.fullmatch(r"'([a-zA-Z])'|<([a-zA-Z])>", answer):
        answer = found.group(1) or found.group(2)
    lead = _LEAD_IN.match(answer)
    answer = answer[lead.end() :] if lead else answer
    if found := _AFFIRMED.fullmatch(answer):
        return found.group(1), ""
    found = _CHOSEN.fullmatch(answer.rstrip('."!'))
    if not found:
        return None
    letter = (found.group(1) or found.group(3)).upper()
    behind = next((group for group in found.groups()[3:] if group is not None), found.group(2) or "").strip()
    return None if _TAKEN_BACK.search(behind) else (letter, behind)


def choice_verdict(reference: str, answer: str, otherwise: Callable[[str, str], Glance]) -> Glance | None:
    """None when the reference is no choice. otherwise: the verdict on two answers that are none."""
    if reference[:1] not in _FIRST:
        return None
    if found := _REFERENCE.fullmatch(reference):
        return _one(found.group(1) or found.group(2), found.group(3).strip(), answer, otherwise)
    return _many(reference, answer) if _SEVERAL.fullmatch(reference) else None


def _one(letter: str, text: str, answer: str, otherwise: Callable[[str, str], Glance]) -> Glance:
    taken = chosen(answer)
    if text and re.fullmatch(r"\(?[a-zA-Z]\)?", text):  # an option whose text is a letter
        if answer == text and answer.strip("()") != letter:
            return "same" if answer[0] == "(" or answer.islower() else "unsure"
        if taken and taken[0] != letter and taken[0] == text.strip("()").upper():
            return "unsure"
    if not taken:
        return otherwise(text, answer) if text and (answer == text or not _OTHER.search(answer)) else "unsure"
    texts = otherwise(text, taken[1]) if text and taken[1] else "unsure"
    if taken[0] == letter:
        return "same" if texts != "different" else "unsure"
    return "different" if texts != "same" else "unsure"


def _many(reference: str, answer: str) -> Glance:
    """As choices BAC is ABC, as the letters of an angle it is not: where only letters stand, their order counts."""
    lead = _LEAD_IN.match(answer)
    answer = answer[lead.end() :] if lead else answer
    wanted, given = (re.findall(f"[{LETTERS}]", text) for text in (reference, answer))
    if not _SEVERAL.fullmatch(answer):
        return "different" if re.fullmatch(rf"\(?[{LETTERS}]\)?", answer) else "unsure"
    if sorted(wanted) != sorted(given):
        return "different"
    bare = len(wanted) > 2 and len(reference) == len(wanted) and len(answer) == len(given)
    return "same" if not bare or wanted == given else "unsure"
