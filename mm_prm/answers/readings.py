r"""What an answer says, once all of it was read: a value with its unit, a list, an interval, a relation, words."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from mm_prm.answers.formulas import Node, Unread, fraction, names, parse
from mm_prm.answers.measures import compare_values
from mm_prm.answers.quantities import NUMBER_WORD, Value, quantity, spelt
from mm_prm.answers.text import split
from mm_prm.answers.units import Unit
from mm_prm.answers.values import value


@dataclass(frozen=True)
class Several:
    r"""Several values. brackets: "" for none, "()" for a point or an open interval, "{}" for a set, "matrix", "cases".
    ordered: their order counts; joint: "or", "and" or "" where the text does not say; name: as for Value; doubtful: the
    comma of `0,5` may be a decimal one."""

    items: tuple[Reading, ...]
    brackets: str = ""
    ordered: bool = False
    joint: str = ""
    name: str | None = None
    doubtful: bool = False


@dataclass(frozen=True)
class Ratio:
    terms: tuple[Node, ...]
    name: str | None = None


@dataclass(frozen=True)
class Clock:
    """A time of the day that may be a ratio as well where half (am, pm) is missing."""

    hour: int
    minute: int
    half: str = ""


@dataclass(frozen=True)
class Relation:
    """operators between operands, turned so that < and <= point to the right."""

    operands: tuple[Node, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Region:
    """Numbers between two ends. name: the variable, where there is one."""

    low: Node
    high: Node
    closed: tuple[bool, bool]
    name: str | None = None
    unit: Unit | None = None


@dataclass(frozen=True)
class Range:
    """10-15, 10 to 15: two numbers that mean a span, or a difference."""

    low: Value
    high: Value


@dataclass(frozen=True)
class Numeral:
    """digits in a base other than ten."""

    digits: str
    base: int


@dataclass(frozen=True)
class Statements:
    """(1)(3): which of several numbered statements."""

    numbers: frozenset[int]


@dataclass(frozen=True)
class Words:
    text: str


Reading = Value | Several | Ratio | Clock | Relation | Region | Range | Numeral | Statements | Words

# ---------------------------------------------------------------- the pieces of a text

MOST_CHARACTERS = 2000
_PLAIN_NUMBER = re.compile(r"-?\d{1,300}(?:\.\d{1,300})?")
_PLAIN_FRACTION = re.compile(r"(-?)(?:\\frac ?\{ ?(\d+) ?\} ?\{ ?(\d+) ?\}|(\d+) ?/ ?(\d+))")
_NUMERIC = re.compile(r"(?:[\d.+*/^{}-]|\\(?:frac|sqrt|pi|times|cdot)(?![a-zA-Z]) ?)+")
_SPAN = re.compile(r"[\d.]+-[\d.]+")
_BLOCKS = re.compile(r";")
_ENTRIES = re.compile(
    r"(?!(?<=\d),\d{3}(?!\d)),| \b(?:and|or)\b |[和或且]| \\(?:text|quad) ?(?:and|or)|\\(?:vee|lor|wedge|land)\b"
)
_DECIMAL_COMMA = re.compile(r"(?<![\d,])\d+,\d+(?![\d,])")
_UNION = re.compile(r"\\cup")
_OPERATOR = re.compile(
    r"<=|>=|!=|=|<|>|\\(?:le|ge|ne|approx|in|notin|parallel|perp|cong|sim|subset|subseteq|to|leftrightarrow|Rightarrow|equiv|mid)"
    r"(?![a-zA-Z])"
)
_OPERATORS = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne"}
_TURNED = {">": "<", r"\ge": r"\le"}
SYMMETRIC = {"=", r"\ne", r"\approx", r"\parallel", r"\perp", r"\cong", r"\sim", r"\leftrightarrow", r"\equiv"}
_STATEMENTS = re.compile(r"(?:\(\d\)[,; ]*(?:and )?){2,}|(?:\d\.){3,}|(?:\d\.){2,}\d")
_LABELS = re.compile(r"\(1\).*\(2\)")
_CLOCK = re.compile(r"(\d{1,2})(?::([0-5]\d))? ?(?:(a|p)\.? ?m\.?|o'clock)?", re.IGNORECASE)
_RANGE = re.compile(r"(\d[\d.,]* ?%?) ?(?:-|~| to |至|到) ?(\d[\d.,]*(?: ?[a-zA-Z%\u4e00-\u9fff]+)*)")
_NUMERAL = re.compile(r"([0-9A-Z]+)_ ?(?:\{ ?(\d+|[a-z]+) ?\}|(\d))")
_REMARK = re.compile(
    r" ?\((?:approx(?:imately|\.)?|about|rounded[^()]*|not unique[^()]*|the answer is not unique[^()]*"
    r"|answers? (?:may|can) vary|to \d+ (?:d\.?p\.?|s\.?f\.?|decimal places|significant figures)"
    r"|答案不唯一[^()]*|不唯一[^()]*|答案合理即可|近似值?)\)$",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r" ?\((?:or|或)(?: fill in)? ?:? ?(.+)\)$", re.IGNORECASE)
_SET_BUILDER = re.compile(r"\\?\{ ?([a-zA-Z]) ?(?:\|(?!.*\|)|:) ?(.+?) ?\\?\}")
_ENVIRONMENT = re.compile(
    r"\\begin ?\{ ?([pbvB]?matrix|cases|array|aligned?) ?\}(?:\{[lcr| ]*\})?(.*?)\\end ?\{ ?\1 ?\}", re.DOTALL
)
_NAME = re.compile(
    r"(?:[a-zA-Z]|\\[a-zA-Z]+)'*(?: ?_ ?(?:\{[^{}]*\}|\w))?'*"
    r"(?: ?\( ?(?:[a-zA-Z]|-?\d+)(?: ?, ?(?:[a-zA-Z]|-?\d+))* ?\))?"
    r"|(?:S|V|C|L|P)_ ?\{[^{}]*\}|m? ?\\(?:angle|triangle) ?[A-Z0-9]{1,3}'*|\|? ?[A-Z]{2} ?\|?"
    r"|\\(?:alpha|beta|theta|gamma|lambda|phi|omega|rho|mu|sigma|Delta [a-z])"
)
_REALS = re.compile(r"(?:(?:all|any) real numbers?|R|\\mathbb ?\{ ?R ?\}|全体实数|任意实数)", re.IGNORECASE)
_PHRASE = re.compile(r"[a-zA-Z][a-zA-Z ,'-]*[a-zA-Z]|[\u4e00-\u9fff]+")
_ARTICLE = re.compile(r"\b(?:the|an?) ", re.IGNORECASE)
_SHORT_WORDS = {"yes", "no", "true", "false"}
_FORMULA_WORD = re.compile(
    r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|abs|arcsin|arccos|arctan|pi) ?[a-z]?|(?!no)[a-z ]{1,2}"
)
INFINITY: Node = ("const", "infty")


def _open_close(text: str) -> str:
    """The kind of brackets that enclose all of a text, or "". A half-open interval has "[)"."""
    text = text.replace(r"\{", "{").replace(r"\}", "}").replace(r"\langle", "(").replace(r"\rangle", ")")
    if len(text) < 2 or text[0] not in "([{" or text[-1] not in ")]}":
        return ""
    depth = 0
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and at < len(text) - 1:
            return ""
    return text[0] + text[-1] if depth == 0 else ""


def _inside(text: str) -> str:
    text = re.sub(r"^(?:\\\{|\\langle|[(\[{])|(?:\\\}|\\rangle|[)\]}])$", "", text.strip())
    return text.strip()


# ---------------------------------------------------------------- readings, from the whole text down to one value


def read_or_none(text: str) -> Reading | None:
    try:
        return read(text)
    except (Unread, RecursionError):
        return None


@lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    """Everything that a normalised answer says. Raises Unread when some of it was not understood."""
    if len(text) > MOST_CHARACTERS:
        raise Unread("long")
    if _PLAIN_NUMBER.fullmatch(text):  # as most are
        return Value(("num", fraction(text)), text=text)
    if found := _PLAIN_FRACTION.fullmatch(text):
        over, under = fraction(found.group(2) or found.group(4)), fraction(found.group(3) or found.group(5))
        node: Node = ("div", ("num", over), ("num", under))
        return Value(("neg", node) if found.group(1) else node, text=text)
    if _NUMERIC.fullmatch(text) and not _SPAN.fullmatch(text):
        try:
            return Value(parse(text), text=text)
        except Unread:
            pass  # 1.3.4
    if sum(map(text.count, "([{")) != sum(map(text.count, ")]}")):
        raise Unread("a bracket without its partner")
    text = re.sub(r"[.?!]$", "", text.strip()) if not text.endswith("!") else text
    text = _REMARK.sub("", text) if text.endswith(")") else text
    return _statements(text) or _blanks(text) or _clock(text) or _several(text)


def alternatives(text: str) -> list[str]:
    """`2 (or 4/2)` is right as 2 and as 4/2."""
    found = _ALTERNATIVE.search(text) if text.endswith(")") else None
    return [text[: found.start()], found.group(1)] if found else [text]


def _statements(text: str) -> Reading | None:
    if text[:1] not in "(123456789" or not _STATEMENTS.fullmatch(text):
        return None
    return Statements(frozenset(map(int, re.findall(r"\d", text))))


def _blanks(text: str) -> Reading | None:
    """(1) 3 (2) 4, 5: the answers to numbered parts."""
    if not text.startswith("(1)"):
        return None
    pieces: list[str] = []
    rest = text[3:]
    while (at := rest.find(f"({len(pieces) + 2})")) > 0:
        pieces.append(rest[:at])
        rest = rest[at + 3 :]
    parts = [piece.strip(" ;,.") for piece in (*pieces, rest)]
    if len(parts) < 2 or not all(parts):
        return None
    return Several(tuple(_several(part) for part in parts), ordered=True)


def _clock(text: str) -> Reading | None:
    found = _CLOCK.fullmatch(text) if text[:1].isdigit() else None
    if not found or not (found.group(2) or found.group(3) or "clock" in text.lower()):
        return None
    hour, minute = int(found.group(1)), int(found.group(2) or 0)
    half = (found.group(3) or "").lower()
    if hour > 24 or (half and not 1 <= hour <= 12):
        return _item(text) if ":" in text and not half else None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return Clock(hour, minute, half)


def _several(text: str) -> Reading:
    if _LABELS.search(text):
        raise Unread("numbered parts in one answer")
    blocks = [block for block in split(text, _BLOCKS)[0] if block]
    if len(blocks) > 1:
        flat = [item for block in blocks for item in _flat(_entries(block))]
        return _named(Several(tuple(flat), ordered=True))
    return _entries(blocks[0] if blocks else text)


def _flat(reading: Reading) -> tuple[Reading, ...]:
    return reading.items if isinstance(reading, Several) and not reading.brackets else (reading,)


def _entries(text: str) -> Reading:
    if re.fullmatch(r"0,\d+", text):
        return Value(("num", Fraction(text.replace(",", "."))), text=text)  # a decimal comma
    if re.fullmatch(r"-?\d{1,3}(?:[ ,]\d{3})+(?:\.\d+)?", text):
        return Value(("num", Fraction(re.sub("[ ,]", "", text))), text=text)
    parts, between = split(_ands(text), _ENTRIES)
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return _item(parts[0] if parts else text)
    joints = {"or" if word.strip(" \\") in ("or", "或", "vee", "lor") else "and" for word in between if word != ","}
    if len(joints) > 1:
        raise Unread("and, or")
    items = [item for part in parts for item in _flat(_item(part))]
    reading = _joined(items, joints.pop() if joints else "")
    return replace(reading, doubtful=bool(_DECIMAL_COMMA.search(text))) if isinstance(reading, Several) else reading


def _ands(text: str) -> str:
    """`x = 2, or x = 3`: one separator."""
    return re.sub(r", ?(and|or) ", r" \1 ", text) if ", " in text else text


def _joined(items: list[Reading], joint: str) -> Reading:
    if all(isinstance(item, Region) for item in items) and joint == "or":
        return Several(tuple(items), brackets="union")
    return _named(Several(tuple(items), joint=joint))


def _named(several: Several) -> Several:
    """x = 2, x = 3 and x = 2, 3 are the values of x; a = 1, b = 2 keep a name each."""
    called = [getattr(item, "name", None) for item in several.items]
    if called[0] is None or any(name not in (None, called[0]) for name in called):
        return several
    return replace(several, items=tuple(map(nameless, several.items)), name=called[0], ordered=False)


def nameless(reading: Reading) -> Reading:
    return replace(reading, name=None) if isinstance(reading, (Value, Several, Region, Ratio)) else reading


def _item(text: str) -> Reading:
    if _REALS.fullmatch(text):
        return Region(("neg", INFINITY), INFINITY, (False, False))
    if text.startswith(("{", "\\{")) and (found := _SET_BUILDER.fullmatch(text)):
        return _condition(found.group(2), found.group(1))
    if r"\begin" in text:
        return _environment(text)
    if r"\cup" in text:
        return Several(tuple(_item(part) for part in split(text, _UNION)[0]), brackets="union")
    if text == r"\emptyset":
        return Several((), brackets="{}")
    parts, operators = split(text, _OPERATOR)
    if operators and not (len(operators) == 1 and not parts[0] and operators[0] == r"\approx"):
        return _relation(parts, [_OPERATORS.get(operator, operator) for operator in operators])
    if brackets := _open_close(text):
        return _bracketed(text, brackets)
    if ":" in text:
        return _ratio(text)
    return _numeral(text) or _range(text) or _point(text) or spelt(text) or _words(text) or quantity(text)


def _words(text: str) -> Words | None:
    """`an acute triangle`: words alone, none of them a number or of a formula."""
    if not _PHRASE.fullmatch(text) or NUMBER_WORD.search(text):
        return None
    if text.casefold() not in _SHORT_WORDS and not re.search("[a-z]{3}|[A-Z]?[a-z]{2}\\b|[\u4e00-\u9fff]", text):
        return None
    if _FORMULA_WORD.fullmatch(text):
        return None
    return Words(re.sub(r"\s+", " ", _ARTICLE.sub("", text)).strip().casefold())


def _condition(text: str, variable: str) -> Reading:
    reading = _entries(text)
    regions = reading.items if isinstance(reading, Several) and reading.brackets == "union" else (reading,)
    if not all(isinstance(region, Region) and region.name == variable for region in regions):
        raise Unread("a set by a condition")
    return reading


def _environment(text: str) -> Reading:
    found = _ENVIRONMENT.fullmatch(text.strip("([{ }])|" if "array" in text else " "))
    if not found:
        raise Unread("an environment in a formula")
    rows = [row.strip() for row in re.split(r"\\\\(?:\[[^]]*\])?|\\cr", found.group(2)) if row.strip()]
    if found.group(1) in ("cases", "align", "aligned"):
        items = [_item(row.replace("&", "").strip(" ,;")) for row in rows]
        return _named(Several(tuple(items), joint="and"))
    cells = [Several(tuple(_item(cell.strip()) for cell in row.split("&")), "row", ordered=True) for row in rows]
    kind = "determinant" if found.group(1) == "vmatrix" else "matrix"
    return Several(tuple(cells), kind, ordered=True)


def _bracketed(text: str, brackets: str) -> Reading:
    inner = _inside(text)
    if not inner:
        raise Unread("empty brackets")
    if "," in inner or ";" in inner:
        items, _ = split(inner, re.compile("[,;]"))
        if len(items) > 1:
            if re.search(r" (?:or|and) |[或和]", inner):
                raise Unread("words in brackets")
            read_items = tuple(item for part in items for item in _flat(_item(part)))
            if brackets == "{}":
                return Several(read_items, "{}")
            return Several(read_items, brackets, ordered=True)
    if brackets in ("[)", "(]"):
        raise Unread("half an interval")
    reading = _item(inner)
    if brackets == "{}":
        return Several(_flat(reading), "{}") if text.startswith("\\") else reading
    return reading if isinstance(reading, Value) and brackets in ("()", "[]") else quantity(text)


def _ratio(text: str) -> Reading:
    parts = text.split(":")
    if len(parts) < 2 or not all(part.strip() for part in parts):
        raise Unread("a colon")
    if (clock := _CLOCK.fullmatch(text)) and clock.group(2):
        return Clock(int(clock.group(1)), int(clock.group(2)))
    return Ratio(tuple(parse(part) for part in parts))


def _numeral(text: str) -> Reading | None:
    found = _NUMERAL.fullmatch(text)
    if not found or not any(map(str.isdigit, found.group(1))):
        return None
    words = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
    base = found.group(3) or found.group(2)
    if not base.isdigit() and base not in words:
        raise Unread("a base")
    return Numeral(found.group(1), int(base) if base.isdigit() else words[base])


def _range(text: str) -> Reading | None:
    found = _RANGE.fullmatch(text)
    if not found:
        return None
    low, high = quantity(found.group(1)), quantity(found.group(2))
    return Range(low, high) if low.node[0] == high.node[0] == "num" and not high.compact else None


def _point(text: str) -> Reading | None:
    r"""P(1, 2) is the point P."""
    found = re.fullmatch(r"([A-Z]'?) ?(\(.*\))", text)
    if not found or _open_close(found.group(2)) != "()" or not split(_inside(found.group(2)), re.compile(","))[1]:
        return None
    reading = _bracketed(found.group(2), "()")
    return replace(reading, name=found.group(1)) if isinstance(reading, Several) else None


# ---------------------------------------------------------------- relations


def _relation(parts: list[str], operators: list[str]) -> Reading:
    if set(operators) <= {"=", r"\approx"}:
        return _equalities(parts, operators)
    if operators == [r"\in"] and (found := _NAME.fullmatch(parts[0])):
        inside = _item(parts[1])
        if isinstance(inside, (Region, Several)):
            return _with_name(inside, found.group())
    if not parts[0] and len(operators) == 1:  # >-2
        return _bounds(["x", parts[1]], operators, None)
    if set(operators) <= {"<", r"\le", ">", r"\ge"}:
        return _bounds(parts, operators, "")
    return _turned([_bare(quantity(part)) for part in parts], operators)


def _bare(reading: Value) -> Node:
    if reading.unit and not reading.compact:
        raise Unread("a unit in a relation")
    return parse(reading.text) if reading.compact else reading.node


def _turned(operands: list[Node], operators: list[str]) -> Relation:
    if operators and all(operator in _TURNED for operator in operators):
        operands, operators = operands[::-1], [_TURNED[operator] for operator in reversed(operators)]
    if any(operator in _TURNED for operator in operators):
        raise Unread("< and >")
    return Relation(tuple(operands), tuple(operators))


def _is_constant(node: Node) -> bool:
    return not names(node)


def _bounds(parts: list[str], operators: list[str], name: str | None) -> Reading:
    """x > 3 and 1 < x <= 2 as regions; other chains as relations. name: None where no variable was written."""
    values = [quantity(part) for part in parts]
    units = {one.unit for one in values if one.unit and not one.compact}
    if len(units) > 1:
        raise Unread("two units")
    plain = [one if one.compact else replace(one, unit=None) for one in values]
    relation = _turned([_bare(one) for one in plain], operators)
    operands, signs = relation.operands, relation.operators
    variables = [at for at, operand in enumerate(operands) if not _is_constant(operand)]
    if len(variables) != 1 or operands[variables[0]][0] != "var" or len(operands) > 3:
        return relation if not units else _refuse("a unit in a relation")
    at = variables[0]
    low = operands[at - 1] if at else ("neg", INFINITY)
    high = operands[at + 1] if at + 1 < len(operands) else INFINITY
    if len(operands) == 3 and at != 1:
        return relation if not units else _refuse("a unit in a relation")
    closed = (bool(at) and signs[at - 1] == r"\le", at < len(signs) and signs[at] == r"\le")
    return Region(low, high, closed, operands[at][1] if name is not None else None, units.pop() if units else None)


def _with_name(reading: Reading, name: str) -> Reading:
    if isinstance(reading, Clock):
        reading = Ratio((("num", Fraction(reading.hour)), ("num", Fraction(reading.minute))))
    if isinstance(reading, (Value, Several, Ratio, Region)):
        name = re.sub(r"[\s{}]", "", name.strip("| "))
        return replace(reading, name=reading.name or name)
    raise Unread("a name for something else")


def _equalities(parts: list[str], operators: list[str]) -> Reading:
    if not all(parts[1:]) or (not parts[0] and operators != ["="]):
        raise Unread("half an equation")
    exact = 1 + next((at for at, operator in enumerate(operators) if operator == r"\approx"), len(operators))
    if operators == ["="] and re.fullmatch(r"-?[\d.]+", parts[0]):
        parts = parts[::-1]  # 2 = x
    name = _left_name(parts[0], parts[1])
    first = 1 if name and exact > 1 else 0
    if name and exact == 1:  # x \approx 75
        return (
            _with_name(replace(quantity(parts[1]), rough=True), name) if len(parts) == 2 else _refuse("approximations")
        )
    if not name and exact == 2 and len(parts) == 2:
        return _equation(parts)
    readings = [_item(part) for part in parts[first:exact]]
    if any(not _agree(readings[0], reading) for reading in readings[1:]):
        raise Unread("an equation of which only a part is the answer")
    if any(not _near(readings[0], _item(part)) for part in parts[exact:]):
        raise Unread("no good approximation")
    return _with_name(readings[-1], name) if name else readings[-1]


def _refuse(why: str) -> Reading:
    raise Unread(why)


def _left_name(left: str, right: str) -> str | None:
    """x, f(x), AB, \\angle A, (x, y), V_1:V_2: what an equation gives the value of; EB = BD gives none."""
    if not left or re.search(r"(?<![a-zA-Z\\])[A-Z]{2}|[A-Z]'", right) and not re.search(r"[a-z_]", right):
        return None
    if _NAME.fullmatch(left):
        return left
    if ":" in left and all(_NAME.fullmatch(part.strip()) for part in left.split(":")):
        return left
    inner = _inside(left).split(",")
    if (
        _open_close(left) == "()"
        and len(inner) > 1
        and all(_NAME.fullmatch(part.strip()) or re.fullmatch(r"[a-z]\d", part.strip()) for part in inner)
    ):
        return left
    return None


def _equation(parts: list[str]) -> Reading:
    operands = [_item(part) if part else _refuse("half an equation") for part in parts]
    if not all(isinstance(operand, Value) for operand in operands):
        raise Unread("an equation between other things")
    left, right = operands
    assert isinstance(left, Value) and isinstance(right, Value)
    if _is_constant(left.node) and _is_constant(right.node):
        if not _agree(left, right):
            raise Unread("an equation that does not hold")
        return right
    return Relation((_bare(left), _bare(right)), ("=",))


def _agree(left: Reading, right: Reading) -> bool:
    return isinstance(left, Value) and isinstance(right, Value) and compare_values(left, right) == "same"


def _near(left: Reading, right: Reading) -> bool:
    """Within one part in a hundred, which is how far an approximation may be off."""
    if not isinstance(left, Value) or not isinstance(right, Value):
        return False
    try:
        exact, rounded = (float(abs(value(reading.node))) for reading in (left, right))
    except (Unread, ZeroDivisionError, TypeError, OverflowError):
        return False
    return abs(exact - rounded) <= 0.01 * max(exact, rounded)
