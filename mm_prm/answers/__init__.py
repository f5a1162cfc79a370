r"""Do two answers mean the same? By rules: everything both texts say is read, or the verdict is unsure.

`glance` reads and compares (microseconds; a formula of its own kind milliseconds); `compute` asks math-verify about
formulas that it cannot value, integrals and sums.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from mm_prm.answers.choices import choice_verdict, chosen
from mm_prm.answers.compare import compare
from mm_prm.answers.quantities import Value
from mm_prm.answers.readings import Clock, Words, alternatives, read_or_none
from mm_prm.answers.sentences import stated
from mm_prm.answers.text import normalise
from mm_prm.answers.values import Glance, Verdict

__all__ = ["Glance", "Verdict", "canonical", "compute", "glance", "normalise"]

_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )*answer(?: is)?:? (?=.)"
    r"|(?:所以)?答案[是为]?:? ?(?=.)",
    re.IGNORECASE,
)
_BESIDE_SIGNS = re.compile(r"(?<!\w) | (?!\w)")
# A formula that math-verify reads wholly: numbers, letters, operators, and commands that it knows
_PURE = re.compile(
    r"(?:[\d.+\-*/^_(){}=! ]|(?<![a-zA-Z])d?[a-zA-Z](?![a-zA-Z'])"
    r"|\\(?:frac|sqrt|int|sum|prod|lim|to|infty|pi|cdot|times"
    r"|binom|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|d?x|alpha|beta|theta|lambda)(?![a-zA-Z]))+"
)
_HARD = re.compile(r"\\(?:int|sum|prod|lim)(?![a-zA-Z])")


def glance(reference: str, answer: str) -> Glance:
    """Compare two normalised answers as far as it goes without computer algebra."""
    if _same_text(reference, answer):
        return "same"
    if not any(map(str.isalnum, answer)):
        return "different" if not answer or any(map(str.isalnum, reference)) else "unsure"
    if seen := choice_verdict(reference, answer, _no_choices):
        return "unsure" if seen == "compute" else seen
    return _no_choices(reference, answer)


def _same_text(one: str, other: str) -> bool:
    """But for spaces beside signs (7 5 is not 75), and for semicolons or commas between answers."""
    return one == other or (" " in one + other and _bare(one) == _bare(other))


def _bare(text: str) -> str:
    return _BESIDE_SIGNS.sub("", text.replace(";", ","))


def _no_choices(reference: str, answer: str) -> Glance:
    if reference and _same_text(reference, answer):
        return "same"
    wanted, given = alternatives(reference), alternatives(answer)
    if len(wanted) > 1 or len(given) > 1:
        return _alternatives([[_no_choices(one, other) for one in wanted] for other in given])
    left, right = read_or_none(reference), read_or_none(answer)
    if (not right or isinstance(right, Words)) and not answer.endswith("!") and (lead := _LEAD_IN.match(answer)):
        return _no_choices(reference, answer[lead.end() :])
    if isinstance(left, (Value, Clock)) and (not right or isinstance(right, Words)) and (told := stated(answer)):
        return compare(left, told)
    if left and right:
        return compare(left, right)
    return "compute" if _for_algebra(reference, answer) else "unsure"


def _alternatives(verdicts: list[list[Glance]]) -> Glance:
    """Every alternative of the answer [answer, reference] must be one of the reference's."""
    if all("same" in row for row in verdicts):
        return "same"
    return "different" if any(set(row) == {"different"} for row in verdicts) else "unsure"


def _for_algebra(reference: str, answer: str) -> bool:
    pure = all(len(text) < 300 and _PURE.fullmatch(text) for text in (reference, answer))
    return pure and bool(_HARD.search(reference) or _HARD.search(answer))


def compute(reference: str, answer: str) -> Verdict:
    """math-verify's verdict on two normalised formulas: same, or unsure; it may take for ever.

    Its True counts for formulas of which it reads everything, which are all that `glance` sends here; its False may
    mean that it did not see through them.
    """
    import math_verify  # takes more than a second to import, and many runs never come here

    try:  # no limits of its own: they are seconds on the wall
        gold, given = (
            math_verify.parse(f"${text}$", parsing_timeout=None, raise_on_error=True) for text in (reference, answer)
        )
        return "same" if math_verify.verify(gold, given, timeout_seconds=None, raise_on_error=True) else "unsure"
    except Exception:  # its grammar or sympy fails on what is no mathematics
        return "unsure"


# ---------------------------------------------------------------- votes


def canonical(answers: Sequence[str | None], reference: str | None = None) -> list[str]:
    r"""One spelling for all answers that mean the same by `glance`: the most frequent one, normalised; "" for none.

    Used to count votes. With the reference `B. 75` the answers B and 75 are one.
    """
    spellings = [normalise(answer or "") for answer in answers]
    counts = Counter(spelling for spelling in spellings if spelling)
    target = normalise(reference) if reference else ""
    heads: list[str] = []  # spellings that stand for a meaning
    numbers: dict[Fraction, str] = {}  # heads that are plain numbers: looked up at a hundredth of the cost
    meaning = {"": ""}
    for spelling, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if target and glance(target, spelling) == "same":
            meaning[spelling] = target
            continue
        number = _plain_number(spelling)
        known = numbers.get(number) if number is not None else None
        others = heads if number is None else [head for head in heads if _plain_number(head) is None]
        meaning[spelling] = known or next((head for head in others if _vote_together(head, spelling)), spelling)
        if meaning[spelling] == spelling:
            heads.append(spelling)
            if number is not None:
                numbers[number] = spelling
    return [meaning[spelling] for spelling in spellings]


def _plain_number(text: str) -> Fraction | None:
    reading = read_or_none(text)
    plain = isinstance(reading, Value) and reading.node[0] == "num" and reading.unit is None
    return reading.node[1] if plain and isinstance(reading, Value) else None


def _vote_together(one: str, other: str) -> bool:
    if (first := chosen(one)) and (second := chosen(other)) and first[0] == second[0]:
        return True
    return "same" in (glance(one, other), glance(other, one))
