"""Where a solution in plain text states its final answer: after a label (`Answer:`), in boxes, or in its last sentence.

The last statement counts: a solution with `Answer: 3` and, later, `Answer: 5` has changed its mind. A statement is
taken whole: every box of it, every line of a list, a sentence as it stands. What it means is for the judge to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_LINES = 40  # of a statement: what opens and does not close is not looked for up to the end
_PART = r"(?:[(（](?:\d|[a-h]|i{1,3}|iv|v)[)）]|[①-⑳]|(?:part|question)[ \t]+\(?[\da-h]\b)"
# What may stand before a label: a quotation, a heading, a bullet, stars, a formula that holds text
_OPENING = r"(?:[ \t>#*_$-]|\\\[\s*|\\\(|\\text(?:bf)?\{)*"
_NAME = r"""(?:(?:so|thus|hence|therefore)[, \t]+)?(?:the[ \t]+)?(?:(?:final|correct|right)[ \t]+)*
    (?:answers?|ans|(?<=correct[ ])(?:options?|choices?)|(?<=right[ ])(?:options?|choices?))"""
_LABEL = re.compile(
    rf"""^{_OPENING}(?:{_PART}[ \t]*)?{_NAME}(?:[ \t]*(?:\d|\(?[\da-h]\)))?
        (?:(?:[ \t]+(?:is|are))?[*_ \t}}]*[:：=]|(?=[*_ \t}}#]*$))
    | ^{_OPENING}答[ \t]*[:：] | ^{_OPENING}答案[ \t]+(?=[-\w$\\]) | 【答案】
    | (?:(?:故|所以|因此|综上)[,，]?)?(?:正确|最终|最后)?的?答案[ \t]*(?:(?:应?[是为]|选)(?!否)[ \t]*[:：]?|[:：])
    | (?:故|所以|因此|因而|应|本题)应?该?选择?[ \t]*[:：]?(?=[ \t]*[(（]?[A-H])""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
# In the last paragraph alone: elsewhere "the answer is found by adding" says how, not what
_WEAK_LABEL = re.compile(rf"^{_OPENING}{_NAME}[ \t]+(?:is|are)\b", re.IGNORECASE | re.MULTILINE | re.VERBOSE)
_SAID = re.compile(
    r"""\b(?:answer|option|choice)s?(?:[ ](?:to|for|of)[ ][^.:\n]{1,60}?)?[ \t]+(?:is|are)\b[ \t]*:?(.*\S)
    | (?-i:\b([A-H])\)?[ ]is)[ ](?:the[ ])?(?:correct|right)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LABEL_CLOSED = re.compile(r"(?:[ \t]*(?:\*+|_+|\}))+(?=\s|$)")
_SIGN = re.compile(r"(?:^|[\s=($,:{])-$")
_BEHIND_A_BOX = re.compile(r"(?:\\[,; ]|[ ~])*(?:\^\{?\\circ\}?|\^\{?\d+\}?|\\?%|°|π|\\pi\b|\\sqrt\{[^{}]*\})")
_NAMED = re.compile(r"([A-Za-z]\w*|\\[a-z]+) ?= ?-?$")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z$\\(*])|(?<=[。！？])(?=.)")
_STEP_NUMBER = re.compile(r"^[#*> \t]*(?:step[ \t]+)?\d+[.:)][* \t]+", re.IGNORECASE)
_OPEN_END = re.compile(r"(?:[:：,，、=]|\b(?:is|are|and|or)|[是为和或])[ \t*$]*$", re.IGNORECASE)
_GOES_ON = re.compile(r"[ \t]*(?:(?:and|or)\b|[和或])", re.IGNORECASE)
_ITEM = re.compile(rf"[ \t]*(?:[-*•]|\d+[.)]|{_PART})[ \t]*(?=\S)", re.IGNORECASE)
_BULLET = re.compile(r"[ \t]*(?:[-*•]|\d+[.)])[ \t]+(?=\S)")
# Between two boxes: what begins another statement, which follows from the first
_NEXT = re.compile(
    r"""[.!?。！？](?:\s|$) | \n[ \t]*\n | \\(?:Rightarrow|implies|therefore|to)\b | [⇒→∴] | 所以|因此|从而|故|则|得
    | \b(?:so|thus|hence|therefore|then|gives?|since|because|implies|total|sum)\b | ^\W*(?:=|≈|\\approx)\W*$""",
    re.IGNORECASE | re.VERBOSE,
)
_CLOSING = (("\\[", "\\]"), ("\\(", "\\)"), ("{", "}"))
_WRAPPED = re.compile(
    r"\\\[((?:(?!\\\[).)*)\\\]|\\\(((?:(?!\\\().)*)\\\)|\$\$([^$]*)\$\$|\$([^$]*)\$|([*_`])(?=\S)([^*_`]*)\5", re.DOTALL
)


@dataclass(frozen=True)
class Statement:
    """An answer that a text gives. start, end: its characters; said: "" for a box that never closes; label: as written,
    None for a box."""

    start: int
    end: int
    said: str
    label: str | None = None


def final_answer(text: str, cut: bool = False) -> tuple[str, str]:
    """The text that the steps are in, and the answer that the text gives at last, "" when it gives none.

    Several answers of one statement are joined by commas. cut: the text ended at the token limit.
    """
    labels = list(_labelled(text, cut))
    boxes = [box for box in _boxes(text) if not any(label.start <= box.start < label.end for label in labels)]
    boxes = [box for box in boxes if box.said or not cut]
    found = sorted([*labels, *boxes], key=lambda statement: statement.start)
    if not found:
        return text, "" if cut else _last_sentence(text)
    last = _last_group(text, found)
    if last[0].label is None:
        return text, _joined(text, last)
    ends = [0, *(statement.end for statement in last)]
    body = "\n\n".join(text[end : statement.start] for end, statement in zip(ends, last, strict=False))
    return body, ", ".join(statement.said for statement in last)


# ---------------------------------------------------------------- labels


def _labelled(text: str, cut: bool) -> Iterator[Statement]:
    """What stands behind labels; a label behind which nothing stands, or a line that was cut, states nothing."""
    marks = list(_LABEL.finditer(text))
    if not cut:
        known = {mark.start() for mark in marks}
        last_paragraph = max([0, *(blank.end() for blank in _BLANK_LINE.finditer(text.rstrip()))])
        marks += [mark for mark in _WEAK_LABEL.finditer(text, last_paragraph) if mark.start() not in known]
    for mark in marks:
        closed = _LABEL_CLOSED.match(text, mark.end())  # the stars of `**Answer:**`
        end, lines = _statement_lines(text, closed.end() if closed else mark.end())
        boxes = list(_boxes("\n".join(lines)))
        said = _joined("\n".join(lines), _last_group("\n".join(lines), boxes)) if boxes else _tidy(_one_text(lines))
        if said and not (cut and end == len(text)):
            yield Statement(mark.start(), end, said, mark.group())


def _statement_lines(text: str, start: int) -> tuple[int, list[str]]:
    """Where a statement that begins at `start` ends, and its lines: the first that is not blank, and those it needs."""
    lines: list[str] = []
    first = end = start
    for line in text[start:].splitlines(keepends=True)[:MAX_LINES]:
        if lines and not _is_open(lines) and not _goes_on(lines, line):
            return end, lines
        if line.strip():
            lines.append(line.strip())
        end += len(line.rstrip("\n"))
        first = end if len(lines) == 1 else first
        end += line.endswith("\n")
    return (first, lines[:1]) if _is_open(lines) else (end, lines)


def _is_open(lines: Sequence[str]) -> bool:
    """Whether a formula, a bracket or the sentence goes on."""
    text = "\n".join(lines)
    braces = re.findall(r"(?<!\\)[{}]", text)
    pairs = (("\\[", "\\]"), ("\\(", "\\)"), ("\\begin", "\\end"))
    is_inside = any(text.count(one) > text.count(other) for one, other in pairs) or text.count("$$") % 2 == 1
    return is_inside or braces.count("{") > braces.count("}") or bool(_OPEN_END.search(text))


def _goes_on(lines: Sequence[str], line: str) -> bool:
    """Whether the next line is one more answer: `or 5`, or one more item of a list."""
    return bool(_GOES_ON.match(line) or (_ITEM.match(lines[0]) and _ITEM.match(line)))


def _one_text(lines: Sequence[str]) -> str:
    if len(lines) > 1 and all(map(_BULLET.match, lines)):
        return ", ".join(_BULLET.sub("", line, count=1) for line in lines)  # "- 3" is no -3 here, "1. 3" no 1.3
    return "\n".join(lines)


def _tidy(said: str) -> str:
    """An answer without emphasis, without what closes a formula that began before it, and without a final period."""
    before = None
    while said != before:
        before = said
        said = re.sub(r"(?<!\w)\*\*|\*\*(?![\w(-])|^[*_]+(?=\s)", "", said).strip()
        for one, other in _CLOSING:
            if said.count(one) < said.count(other):
                said = said.removesuffix(other).removeprefix(other).strip()
        if said.count("$") % 2 and said.endswith("$"):
            said = said.rstrip("$").strip()
        if wrapped := _WRAPPED.fullmatch(said):
            said = next(inside for inside in (*wrapped.groups()[:4], wrapped.group(6)) if inside is not None).strip()
        if re.search(r"(?<![.．])[.．。]$", said):
            said = said[:-1]
    return said


# ---------------------------------------------------------------- boxes


def _boxes(text: str) -> Iterator[Statement]:
    """Every box that holds something, with a sign before it and a degree, percent, power or root behind it."""
    end = 0
    for mark in _BOX.finditer(text):
        if mark.start() < end:
            continue  # a box in a box
        close = _closing_brace(text, mark.end())
        if close is None:
            yield Statement(mark.start(), len(text), "")
            return
        sign, behind = _SIGN.search(text[max(mark.start() - 2, 0) : mark.start()]), _BEHIND_A_BOX.match(text, close + 1)
        end = behind.end() if behind else close + 1
        if said := _in_box(text[mark.end() : close].strip()):
            yield Statement(mark.start(), end, "-" * bool(sign) + said + (behind.group() if behind else ""))


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that was opened before `start`; `\\{` is none."""
    depth = 1
    for token in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.start()
    return None


def _in_box(text: str) -> str:
    """The content of a box, without another box around all of it and without a label."""
    while (inner := _BOX.match(text)) and _closing_brace(text, inner.end()) == len(text) - 1:
        text = text[inner.end() : -1].strip()
    label = _LABEL.match(text)
    return _tidy(text[label.end() :]) if label else text


def _last_group(text: str, found: Sequence[Statement]) -> list[Statement]:
    """The last statement, with those before it that say the same thing's other parts."""
    group = [found[-1]]
    for one in reversed(found[:-1]):
        if not _belong_together(one, group[0], text[one.end : group[0].start]):
            break
        group.insert(0, one)
    return group


def _belong_together(one: Statement, other: Statement, between: str) -> bool:
    """Answers to parts (1) and (2) of a question, numbered answers, boxes in one breath: \\boxed{3} and \\boxed{5}."""
    if (one.label is None) != (other.label is None) or not one.said:
        return False
    if re.search(rf"\n{_OPENING}{_PART}", between, re.IGNORECASE):
        return True
    if one.label is not None and other.label is not None:
        return all(re.search(rf"\d|\([a-h]\)|{_PART}", label, re.IGNORECASE) for label in (one.label, other.label))
    if _NEXT.search(between):
        return False
    words = re.sub(r"\\[a-zA-Z]+|\b(?:and|or)\b", "", between)
    return "\n" not in between or not re.search(r"[^\W\d_]{2}", words)


def _joined(text: str, boxes: Sequence[Statement]) -> str:
    """`3, 5`, or `x = 3, y = 5` where every one of several boxes has a name."""
    if len(boxes) == 1:
        return boxes[0].said
    names = [_NAMED.search(text[max(box.start - 20, 0) : box.start]) for box in boxes]
    if all(names):
        return ", ".join(f"{name.group(1)} = {box.said}" for name, box in zip(names, boxes, strict=True) if name)
    return ", ".join(box.said for box in boxes)


# ---------------------------------------------------------------- neither


def _last_sentence(text: str) -> str:
    """`..., so the answer is 75.` at the end of the last paragraph, else its last sentence if it holds a number."""
    paragraph = _BLANK_LINE.split(text.strip())[-1]
    if said := list(_SAID.finditer(paragraph)):
        return _tidy(said[-1].group(1) or said[-1].group(2))
    lines = [line for line in paragraph.split("\n") if any(map(str.isalnum, line))]
    last = _SENTENCE_END.split(_STEP_NUMBER.sub("", lines[-1], count=1))[-1] if lines else ""
    return _tidy(last) if any(map(str.isdigit, last)) else ""
