"""Do two answers mean the same? By rules: choice letters, quantities, lists, and math-verify for the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from itertools import permutations
from typing import Literal

# same and different are certain; unsure: equal in no way the rules know; compute: math-verify must be asked
Glance = Literal["same", "different", "unsure", "compute"]

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SYMBOLS = str.maketrans(
    {"\u3000": " ", "、": ",", "。": ".", "−": "-", "–": "-", "∶": ":", "×": r"\times ", "∞": r"\infty ", "∪": r"\cup "}
    | {"½": r"\frac{1}{2}", "∅": r"\emptyset "}
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉", "0123456789-0123456789")
_LATEX_NOISE = re.compile(r"\\left|\\right|\\[,;!]|\\\(|\\\)|(?<=\d)\{,\}(?=\d{3})")
_LATEX_SPACE = re.compile(r"\\ |~|\\q?quad")
_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d+)?")
_LEAD_IN = re.compile(
    r"(?:the )?(?:correct |final )?(?:answer|choice|option)(?: is)?:? |答案[是为选]?:? ?|选项? ?", re.IGNORECASE
)
# A choice letter: B, (B), b), [B], B. 75, (B) 75, B 75; not "A line" and not "A, C"
_CHOICE = re.compile(
    r"[(\[]([a-z])[)\]][.:]? ?(.*)|([a-z])(?:[.:)] ?(.*)|,(?! ?[a-h]\b) ?(.+)| (?=[(\d\\$])(.*))?", re.IGNORECASE
)
_REFERENCE_CHOICE = re.compile(r"(?:\(([A-Z])\)|([A-Z]))(?:[.:)] ?(\S.*)?)?")
_CHOICES = re.compile(r"\(?[A-H]\)?(?:(?: and |[, ]*)\(?[A-H]\)?)+")
_SEPARATOR = re.compile(r"[(\[{]|[)\]}]|[,;和或且]| or | and ")
_JOINT = re.compile(r" or | and |[或且]")
_WORD = re.compile(r"(?<!\\)(?<![a-zA-Z])(?!(?:sin|cos|tan|log|ln|sqrt|pi|or|and)\b)[a-zA-Z]{3,}")
_TERM = re.compile(r"[^a-zA-Z]*[\d)}][a-zA-Z]{1,2}")  # 2m, which may be two metres or a term with a variable
_UNITS = {
    alias: unit
    for unit, aliases in {
        "°": r"° ^\circ ^{\circ} \circ degree degrees 度",
        "%": r"% \% percent",
        "mm": "mm millimeter millimeters millimetre millimetres 毫米",
        "cm": "cm centimeter centimeters centimetre centimetres 厘米",
        "m": "m meter meters metre metres 米",
        "km": "km kilometer kilometers kilometre kilometres 千米",
        "ft": "ft foot feet",
        "in": "in inch inches",
        "g": "g gram grams 克",
        "kg": "kg kilogram kilograms 千克",
        "N": "N newton newtons",
        "s": "s second seconds 秒",
        "min": "min minute minutes 分钟",
        "h": "h hour hours 小时",
        "L": "L liter liters litre litres 升",
        "m/s": "m/s",
        "km/h": "km/h",
        "$": r"\$ dollar dollars",
        "元": "元 yuan",
        "unit": "unit units",
    }.items()
    for alias in aliases.split()
}
_ALIASES = "|".join(re.escape(alias) for alias in sorted(_UNITS, key=len, reverse=True))
_QUANTITY = re.compile(
    rf"(.*(?:[\d)}}\]]|π|\\pi))( ?)\(?(square |cubic |sq\.? |平方|立方)?({_ALIASES})(?:\^\{{?([23])\}}?)?\)?"
)


def normalise(answer: str) -> str:
    """Full-width characters to ASCII; LaTeX boxes, text and spacing removed; spaces folded, a final period dropped."""
    text = answer.translate(_FULL_WIDTH).translate(_SYMBOLS).strip()
    boxed = re.fullmatch(r".*\\boxed ?\{(.*)\}\W*", text, re.DOTALL)
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", r" \1", boxed.group(1) if boxed else text)
    text = _LATEX_SPACE.sub(" ", _LATEX_NOISE.sub("", text))
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda found: f"^{{{found.group().translate(_RAISED)}}}", text)
    text = re.sub("[₀-₉]+", lambda found: f"_{found.group().translate(_RAISED)}", text)
    text = re.sub(r"√ ?(\d+(?:\.\d+)?|[a-zA-Z]|\([^()]*\))", r"\\sqrt{\1}", text)
    text = re.sub(r"\s+", " ", text).strip("$*` ").rstrip(". ")
    return re.sub(r"(-?\d+) (\d+)/(\d+)", r"\1\\frac{\2}{\3}", text) if re.fullmatch(r"-?\d+ \d+/\d+", text) else text


def _number(text: str) -> Decimal | None:
    return Decimal(text.replace(",", "")) if any(map(str.isdecimal, text)) and _NUMBER.fullmatch(text) else None


def _quantity(text: str) -> tuple[str, str | None]:
    """`12 square cm` -> ("12", "cm^2"). A single letter right behind the number may be a variable and is no unit."""
    found = _QUANTITY.fullmatch(text)
    if not found or (not found.group(2) and re.fullmatch(r"[a-zA-Z]", found.group(4))):
        return text, None
    value, _, power_word, alias, power = found.groups()
    power = power or {"s": "2", "平": "2", "c": "3", "立": "3"}.get((power_word or " ")[0])
    return value, _UNITS[alias] + (f"^{power}" if power else "")


def _parts(text: str) -> list[str]:
    """`x=1 or x=2` -> ["x=1", "x=2"]: the entries of a list that is not in brackets."""
    if _number(text) is not None:
        return [text]  # 1,200
    parts, depth, start = [], 0, 0
    for found in _SEPARATOR.finditer(text):
        if found.group() in "([{":
            depth += 1
        elif found.group() in ")]}":
            depth -= 1
        elif depth <= 0:
            parts.append(text[start : found.start()])
            start = found.end()
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def glance(reference: str, answer: str) -> Glance:
    """Compare two normalised answers as far as it goes without computer algebra."""
    if reference.casefold() == answer.casefold():
        return "same"
    if not any(map(str.isalnum, answer)):
        return "different" if not answer or any(map(str.isalnum, reference)) else "unsure"
    lists = _parts(reference), _parts(answer)
    if seen := _glance_at_choices(reference, answer):
        return seen
    if len(lists[0]) != len(lists[1]):
        return "unsure"
    return (
        _glance_at_lists(reference, answer, *lists) if len(lists[0]) > 1 else _glance_at_quantities(reference, answer)
    )


def _glance_at_choices(reference: str, answer: str) -> Glance | None:
    """None when the reference is no choice."""
    answer = _LEAD_IN.sub("", answer, count=1) if _LEAD_IN.match(answer) else answer
    if _CHOICES.fullmatch(reference):
        wanted, given = re.findall("[A-H]", reference), re.findall("[A-H]", answer)
        if not _CHOICES.fullmatch(answer) and len(answer) > 1:
            return "unsure"
        if sorted(wanted) == sorted(given):  # BAC is ABC as choices, not as an angle
            return "same" if len(reference) > len(wanted) or len(answer) > len(given) else "unsure"
        return "different"
    found = _REFERENCE_CHOICE.fullmatch(reference)
    if not found:
        return None
    letter, behind = found.group(1) or found.group(2), found.group(3)
    if chosen := _CHOICE.fullmatch(answer):
        return "same" if (chosen.group(1) or chosen.group(3)).upper() == letter else "different"
    return "same" if behind and glance(behind, answer) == "same" else "unsure"


def _orders(count: int) -> list[tuple[int, ...]]:
    """The order of a list's entries does not matter; of a long one only the given order is tried."""
    return list(permutations(range(count))) if count <= 4 else [tuple(range(count))]


def _glance_at_lists(reference: str, answer: str, left: list[str], right: list[str]) -> Glance:
    joints = [
        {"or" if word in (" or ", "或") else "and" for word in _JOINT.findall(text)} for text in (reference, answer)
    ]
    if joints[0] | joints[1] == {"or", "and"}:
        return "unsure"
    seen = [[glance(one, other) for other in right] for one in left]
    if any(all(seen[i][j] == "same" for i, j in enumerate(order)) for order in _orders(len(left))):
        return "same"
    return "compute" if any("compute" in row for row in seen) else "unsure"


def _glance_at_quantities(reference: str, answer: str) -> Glance:
    """Units may be left out; different ones are not converted. 75% is 75 and 0.75."""
    (left, left_unit), (right, right_unit) = _quantity(reference), _quantity(answer)
    if left_unit and right_unit and left_unit != right_unit:
        return "unsure"
    numbers = _number(left), _number(right)
    if numbers[0] is not None and numbers[1] is not None:
        percent = [100 if unit == "%" else 1 for unit in (left_unit, right_unit)]
        same = numbers[0] == numbers[1] or numbers[0] * percent[1] == numbers[1] * percent[0]
        return "same" if same else "different"
    pair = (left, right), (right, left)
    if any(map(_WORD.search, (left, right))) or any(
        _TERM.fullmatch(a) and not re.search("[a-zA-Z]", b) for a, b in pair
    ):
        return "unsure"  # math-verify would read a word as a product of letters, and drop the m of 2m as a unit
    return "compute"


def math_equal(reference: str, answer: str) -> bool:
    """math-verify's verdict on two normalised answers. What it cannot read is not equal.

    Raises TimeoutError when it takes too long or too much memory.
    """
    lists = _parts(reference), _parts(answer)
    if len(lists[0]) > 1:
        pairs = [[(one, other) for other in lists[1]] for one in lists[0]]
        orders = _orders(len(lists[0])) if len(lists[0]) == len(lists[1]) else []
        return any(all(_equal(*pairs[i][j]) for i, j in enumerate(order)) for order in orders)
    (left, left_unit), (right, right_unit) = _quantity(reference), _quantity(answer)
    if left_unit == right_unit or "%" not in (left_unit, right_unit):
        return _verify(left, right)
    scaled = (f"({left})/100", right) if left_unit == "%" else (left, f"({right})/100")
    return _verify(left, right) or _verify(*scaled)


def _equal(reference: str, answer: str) -> bool:
    seen = glance(reference, answer)
    return math_equal(reference, answer) if seen == "compute" else seen == "same"


def _verify(left: str, right: str) -> bool:
    import math_verify  # takes more than a second to import, and many runs never come here

    try:
        gold, given = (math_verify.parse(f"${text}$", raise_on_error=True) for text in (left, right))
        return bool(math_verify.verify(gold, given, raise_on_error=True))
    except (math_verify.errors.TimeoutException, MemoryError, RecursionError):
        raise TimeoutError from None
    except Exception:  # its grammar or sympy fails on what is no mathematics
        return False


def rule_equal(reference: str, answer: str) -> bool:
    """Whether two answers mean the same by rules alone. Raises TimeoutError when computer algebra takes too long."""
    return _equal(normalise(reference), normalise(answer))


def canonical(answers: Sequence[str | None]) -> list[str]:
    """One spelling for all answers that mean the same by `glance`: the most frequent one, normalised; "" for none.

    Used to count votes. Computer algebra is not asked, so 2\\sqrt{2} and \\sqrt{8} stay two answers.
    """
    spellings = [normalise(answer or "") for answer in answers]
    counts = Counter(spelling for spelling in spellings if spelling)
    heads: dict[str, Decimal | None] = {}  # spellings that stand for a meaning, with the number they are
    meaning = {"": ""}
    for spelling, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        number = _number(spelling)
        alike = (head for head, other in heads.items() if _alike(head, other, spelling, number))
        meaning[spelling] = next(alike, spelling)
        heads.setdefault(meaning[spelling], number)
    return [meaning[spelling] for spelling in spellings]


def _alike(one: str, number: Decimal | None, other: str, other_number: Decimal | None) -> bool:
    if number is not None and other_number is not None:
        return number == other_number  # as glance would say, at a hundredth of the cost
    return "same" in (glance(one, other), glance(other, one))
