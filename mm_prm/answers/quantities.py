"""One value: a formula with its unit, money, a number in words."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from mm_prm.answers.formulas import Node, Unread, names, parse, spread, walk
from mm_prm.answers.text import words
from mm_prm.answers.units import DEGREE, Unit, read_counted, read_unit


@dataclass(frozen=True)
class Value:
    """A formula and its unit. name: x in `x = 5`; compact: the unit is one letter right behind the number, as in 3m, or
    a variable; rough: said to be approximate."""

    node: Node
    unit: Unit | None = None
    name: str | None = None
    compact: bool = False
    rough: bool = False
    text: str = ""


_ROUGH = re.compile(r"(?:\\approx|about|around|approximately|approx\.?|roughly|~|约为?|大约) ?", re.IGNORECASE)
_ROUGH_BEHIND = re.compile(r" ?\(?(?:approximately|approx\.?|about)\)?$|左右$")
_MONEY = re.compile(r"(-?)(?:\\\$|[€£¥]|US\\?\$) ?(-?[\d.,]+(?:[eE]\d+)?.*)")
_COMPOUND = re.compile(r"(\d+(?:\.\d+)?) ?(\^ ?\\circ|'{1,2}|[a-zA-Z]+|小时|分钟?|秒|度) ?(?:and |, )?")
_MULTIPLES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12} | {
    "百": 100, "千": 1000, "万": 10**4, "亿": 10**8,
}  # fmt: skip
_MULTIPLE = re.compile(rf"(.*[\d}}]) ?({'|'.join(_MULTIPLES)})(?![a-zA-Z\u4e00-\u9fff])(.*)", re.IGNORECASE)
_TAIL = re.compile(
    r"(?P<value>.*?(?:[\d)}\]!]|\\pi|\\infty|\b[a-z](?![a-zA-Z])))(?P<space>\*? *)"
    r"(?P<unit>(?:\^ ?\\circ|''?|%|\\\$|\\Omega|\(|\\mu|[a-zA-Zμ元度°\u4e00-\u9fff¢€Ω])[^\d]*"
    r"(?:\^ ?\{? ?-?[1-4] ?\}?[^\d]*)*)"
)
_LAST_WORD = re.compile(r"(?P<value>.*[\d)}a-z])(?P<space> +)(?P<unit>\S{2,})")


def quantity(text: str) -> Value:
    rough = False
    if found := _ROUGH.match(text):
        text, rough = text[found.end() :], True
    if text.endswith(("x", "y", "t", ")", ".", "右")) and (found := _ROUGH_BEHIND.search(text)):
        text, rough = text[: found.start()], True
    sign = re.match(r"\+(?=[\d\\(.])", text)
    reading = _signed_quantity(text[1:] if sign else text)
    return Value(reading.node, reading.unit, None, reading.compact, rough, text.strip())


def _signed_quantity(text: str) -> Value:
    text = text.strip()
    if re.fullmatch("[a-zA-Z][a-z]{2,}", text):
        raise Unread("a word")
    if found := _MONEY.fullmatch(text):
        rest = _signed_quantity(found.group(2))
        if rest.unit not in (None, UNIT_OF_MONEY):
            raise Unread("money and another unit")
        node = ("neg", rest.node) if found.group(1) else rest.node
        return Value(node, UNIT_OF_MONEY if "$" in text else Unit(((text.lstrip("-")[0], 1),)))
    if found := _MULTIPLE.fullmatch(text):
        times: Node = ("num", Fraction(_MULTIPLES[found.group(2).lower()]))
        rest = _with_unit(found.group(1), found.group(3))
        return replace(rest, node=("mul", rest.node, times))
    if compound := _compound(text):
        return compound
    return _ending_in_unit(text) or Value(parse(_mixed_number(text)))


UNIT_OF_MONEY = Unit((("dollar", 1),))


def _mixed_number(text: str) -> str:
    """2 3/4 is two and three quarters."""
    return re.sub(r"^(-?)(\d+) (\d+)/(\d+)$", r"\1(\2+\\frac{\3}{\4})", text)


def _with_unit(value_text: str, unit_text: str) -> Value:
    if not unit_text.strip():
        return Value(parse(_mixed_number(value_text)))
    unit = read_unit(unit_text) or read_counted(unit_text)
    if not unit:
        raise Unread("a unit")
    return Value(parse(_mixed_number(value_text)), unit)


def _compound(text: str) -> Value | None:
    """3 hours 5 minutes, 25°30', 5 ft 6 in: the sum, in the last one's unit."""
    pieces, at = [], 0
    while at < len(text) and (found := _COMPOUND.match(text, at)):
        pieces.append((Fraction(found.group(1)), read_unit(found.group(2))))
        at = found.end()
    if at < len(text) or len(pieces) < 2 or not all(unit and unit.known for _, unit in pieces):
        return None
    units = [unit for _, unit in pieces if unit]
    if any(a.dimension != b.dimension or a.factor <= b.factor for a, b in zip(units, units[1:], strict=False)):
        return None
    if len(units[0].dimension) != 1 or units[0].dimension[0][1] != 1:
        return None
    total = sum((number * unit.factor for (number, _), unit in zip(pieces, units, strict=True)), Fraction(0))
    return Value(("num", total / units[-1].factor), units[-1])


def _ending_in_unit(text: str) -> Value | None:
    """The shortest number in front of a unit; 2x is none, and 40m is a number of metres or a term."""
    return next((one for one in (_split_unit(found) for found in _tails(text)) if one), None)


def _tails(text: str) -> list[re.Match[str]]:
    found = _TAIL.fullmatch(text)
    return [one for one in (found, _LAST_WORD.fullmatch(text)) if found and one]


def _split_unit(found: re.Match[str]) -> Value | None:
    value_text, space, tail = found["value"], found["space"], found["unit"]
    unit = read_unit(tail) or (
        read_counted(tail) if (len(tail.strip()) > 1 or not tail.isascii()) and (space or _is_word(tail)) else None
    )
    if not unit:
        return None
    try:
        node = parse(_mixed_number(value_text))
    except Unread:
        return None
    if unit.dimension == DEGREE.dimension and any(part[0] == "fn" for part in walk(node)):
        return None  # sin 30°
    single = bool(re.fullmatch(r"[a-zA-Z]", tail.strip()))
    if single and names(node):
        return None  # x m
    return Value(node, unit, compact=single and not space)


def _is_word(tail: str) -> bool:
    return not tail.isascii() or len(tail) > 3


_ONES = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = dict(
    zip(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], range(20, 100, 10), strict=True)
)
NUMBER_WORDS = {word: number for number, word in enumerate(_ONES)} | _TENS
NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(sorted(NUMBER_WORDS, key=len, reverse=True))})\b", re.IGNORECASE)


_PART = re.compile(
    r"(?:(an?|one|two|three|four|five) ?-?)?(half|halves|thirds?|quarters?|fourths?|fifths?)", re.IGNORECASE
)
_PARTS = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5}


def spelt(text: str) -> Value | None:
    """One thousand six hundred twenty-five; two thirds."""
    if found := _PART.fullmatch(text):
        count = NUMBER_WORDS.get((found.group(1) or "one").lower(), 1)
        return Value(("num", Fraction(count, _PARTS[found.group(2)[:3].lower()])))
    parts = re.sub(r"[-,]", " ", text.lower()).replace(" and ", " ").split()
    if not parts or parts[0] not in NUMBER_WORDS:
        return None
    total = group = 0
    used = 0
    for word in parts:
        if word in NUMBER_WORDS:
            group += NUMBER_WORDS[word]
        elif word == "hundred":
            group *= 100
        elif word in _MULTIPLES:
            total, group = total + group * _MULTIPLES[word], 0
        else:
            break
        used += 1
    rest = " ".join(parts[used:])
    unit = (read_unit(rest) or read_counted(rest)) if rest else None
    if rest and not unit:
        raise Unread("words behind a number")
    return Value(("num", Fraction(total + group)), unit)


def named_node(name: str) -> Node:
    """The formula that a name is, which may be a name that no formula has."""
    try:
        return parse(name)
    except Unread:
        return ("var", name)


def both_signs(reading: Value) -> list[Value]:
    r"""Both values of \pm."""
    if reading.text and r"\pm" not in reading.text and r"\mp" not in reading.text:
        return [reading]
    return [replace(reading, node=node) for node in spread(reading.node)]
