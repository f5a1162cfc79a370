"""Do two readings say the same? Different only where both are certain; equal ways to say one thing are same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

from mm_prm.answers import expressions
from mm_prm.answers.expressions import Node, Unread, names, value, walk
from mm_prm.answers.readings import (
    INFINITY,
    SYMMETRIC,
    Clock,
    Numeral,
    Range,
    Ratio,
    Reading,
    Region,
    Relation,
    Several,
    Statements,
    Value,
    Words,
    named_node,
    values,
)
from mm_prm.answers.units import ANY, DEGREE, PERCENT, Unit

Verdict = Literal["same", "different", "unsure"]


def compare(left: Reading, right: Reading) -> Verdict:
    """Symmetric, but for a.m. and p.m., which the reference (left) may leave out."""
    left, right = _spread(left), _spread(right)
    if isinstance(left, Value) and isinstance(right, Value):
        return _named(left, right, _values(left, right))
    if type(left) is type(right):
        return _alike(left, right)
    seen = _mixed(left, right)
    return seen if seen != "unsure" else _mixed(right, left)


def _alike(left: Reading, right: Reading) -> Verdict:
    if isinstance(left, Several) and isinstance(right, Several):
        return _named(left, right, _several(left, right))
    if isinstance(left, Relation) and isinstance(right, Relation):
        return _relations(left, right)
    if isinstance(left, Region) and isinstance(right, Region):
        return _named(left, right, _regions(left, right))
    if isinstance(left, Ratio) and isinstance(right, Ratio):
        return _named(left, right, _ratios(left, right))
    if isinstance(left, Clock) and isinstance(right, Clock):
        return _clocks(left, right)
    if isinstance(left, Range) and isinstance(right, Range):
        return _all_of([compare(left.low, right.low), compare(left.high, right.high)])
    if isinstance(left, (Numeral, Statements)):
        return "same" if left == right else "different"
    return "same" if left == right else _words(left, right)


_OPPOSITES = [{"yes", "no"}, {"true", "false"}, {"odd", "even"}, {"correct", "incorrect"}, {"right", "wrong"}]


def _words(left: Reading, right: Reading) -> Verdict:
    assert isinstance(left, Words) and isinstance(right, Words)
    return "different" if {left.text, right.text} in _OPPOSITES else "unsure"


def _mixed(left: Reading, right: Reading) -> Verdict:
    """Two kinds that may say one thing: an equation and what it gives, an interval and a pair, a ratio and a quotient."""
    if isinstance(left, Several) and len(left.items) == 1 and left.brackets in ("{}", "()", "[]"):
        return compare(left.items[0], right)
    if isinstance(left, Several) and isinstance(right, Region):
        return compare(_interval(left), right) if _interval(left) else _unions(left, right)
    if isinstance(left, Ratio) and isinstance(right, Value) and len(left.terms) == 2 and not right.unit:
        return _formulas(("div", *left.terms), right.node)
    if isinstance(left, Ratio) and isinstance(right, Clock) and not right.half:
        return _clock_or_ratio(left, right)
    if isinstance(left, Relation) and isinstance(right, Region):
        return _relations(left, one_sided) if (one_sided := _as_relation(right)) else "unsure"
    if isinstance(left, Relation) and isinstance(right, Value):
        return _solved(left, right)
    if isinstance(left, Statements) and isinstance(right, Several):
        return _numbered(left, right)
    if isinstance(left, Value) and isinstance(right, Several):
        return _one_of_several(left, right)
    return "unsure"


def _named(left: Value | Several | Region | Ratio, right: Value | Several | Region | Ratio, seen: Verdict) -> Verdict:
    """A name that only one side has changes nothing; two names must be one."""
    if left.name is None or right.name is None or left.name.casefold() == right.name.casefold():
        return seen
    if isinstance(left, Value) and isinstance(right, Value):
        return _equations(_as_equation(left), _as_equation(right))
    return "unsure"


def _spread(reading: Reading) -> Reading:
    r"""\pm makes several values of one."""
    if isinstance(reading, Value) and reading.node[0] != "num" and len(both := values(reading)) > 1:
        return Several(tuple(replace(one, name=None) for one in both), joint="", name=reading.name)
    if isinstance(reading, Several) and not reading.ordered and reading.brackets in ("", "{}"):
        items = tuple(one for item in reading.items for one in (values(item) if isinstance(item, Value) else [item]))
        return replace(reading, items=items)
    return reading


def _all_of(verdicts: Sequence[Verdict]) -> Verdict:
    if "different" in verdicts:
        return "different"
    return "same" if all(verdict == "same" for verdict in verdicts) else "unsure"


# ---------------------------------------------------------------- values with units


def _values(left: Value, right: Value) -> Verdict:
    if left.compact or right.compact:
        return _compact(left, right)
    if left.unit is None and right.unit is None:
        return _formulas(left.node, right.node)
    if left.unit is None or right.unit is None:
        return _one_unit(*((left, right) if right.unit else (right, left)))
    return _two_units(left, right)


def _compact(left: Value, right: Value) -> Verdict:
    """3m is three metres or three times m. Same needs both readings, or a unit on the other side that decides."""
    plain = replace(left, compact=False), replace(right, compact=False)
    quantity = _values(*plain)
    other = right if left.compact else left
    if left.compact and right.compact:
        return (
            "same" if quantity == "same" and left.unit == right.unit else "unsure" if quantity == "same" else quantity
        )
    if other.unit:
        return quantity
    number = left.node if left.compact else right.node
    one_metre = (left if left.compact else right).unit == _METRE
    large = number[0] == "num" and number[1] >= 10 and not names(other.node)
    return quantity if quantity != "same" or (one_metre and large) else "unsure"


_METRE = Unit((("m", 1),))


def _one_unit(bare: Value, measured: Value) -> Verdict:
    """A unit may be left out. 75 and 0.75 are both 75%; pi/3 is 60 degrees; 90 may be 1.5 h in minutes."""
    seen = _formulas(bare.node, measured.node)
    if seen == "same":
        return seen
    unit = measured.unit
    assert unit
    if unit == PERCENT:
        hundredth = _formulas(bare.node, ("div", measured.node, ("num", Fraction(100))))
        return hundredth if hundredth != "different" else seen
    if unit.dimension == DEGREE.dimension:
        radians = _formulas(
            bare.node, _times(measured.node, unit.factor, ("div", ("const", "pi"), ("num", Fraction(180))))
        )
        return radians if radians == "same" and ("const", "pi") in walk(bare.node) else _least(seen, radians)
    return _least(seen, _converted(bare.node, measured))


def _least(seen: Verdict, otherwise: Verdict) -> Verdict:
    """A verdict that another way to see it would contradict is none."""
    return seen if otherwise != "same" else "unsure"


_SCALES = [Fraction(scale) for scale in (60, 3600, 24, 7, 12, 3, 10, 100, 1000, 10**4, 10**6)]


def _converted(bare: Node, measured: Value) -> Verdict:
    """Same when the number is the quantity in another unit of its kind."""
    unit = measured.unit
    if not unit or not unit.known or unit == ANY:
        return "different"
    for scale in [s for one in _SCALES for s in (one, 1 / one)]:
        if _formulas(bare, _times(measured.node, scale)) == "same":
            return "same"
    return "different"


def _times(node: Node, factor: Fraction, *more: Node) -> Node:
    return ("mul", node, ("num", factor), *more)


def _two_units(left: Value, right: Value) -> Verdict:
    """5 m is 500 cm; 5 students are not 5 teachers, as far as anyone knows."""
    one, other = left.unit, right.unit
    assert one and other
    if one == other or _is_any(one) or _is_any(other):
        return _formulas(left.node, right.node)
    if one.dimension == other.dimension:
        return _formulas(_times(left.node, one.factor), _times(right.node, other.factor))
    seen = _formulas(left.node, right.node)
    return "different" if one.known and other.known and seen != "unsure" else _least(seen, "same")


def _is_any(unit: Unit) -> bool:
    return len(unit.dimension) == 1 and unit.dimension[0][0] == "unit"


def _numbers(one: Fraction, other: Fraction) -> Verdict:
    """Unequal ones: unsure where one may be the other, rounded to one part in a hundred."""
    if one.denominator == other.denominator == 1:
        return "different"
    return "unsure" if abs(one - other) * 100 <= max(abs(one), abs(other)) else "different"


def _places(node: Node) -> int | None:
    """Decimal places of a number as it is written at its shortest; None for what is no decimal."""
    if node[0] == "neg":
        return _places(node[1])
    if node[0] != "num":
        return None
    return next((places for places in range(40) if 10**places % node[1].denominator == 0), None)


def _formulas(left: Node, right: Node) -> Verdict:
    if left[0] == right[0] == "num":  # most are
        return "same" if left[1] == right[1] else _numbers(left[1], right[1])
    if left == right:
        return "same"
    try:
        if not names(left) and not names(right):
            return _constants(left, right)
        seen = expressions.compare(left, right)
    except (Unread, ArithmeticError, ValueError, TypeError, RecursionError):
        return "unsure"
    if seen == "same":
        return "same"
    if (_DEGREE in walk(left)) != (_DEGREE in walk(right)):
        return _degrees_left_out(left, right)
    return "unsure" if _unlike_names(left, right) else seen  # type: ignore[return-value]


def _constants(left: Node, right: Node) -> Verdict:
    one, other = value(left), value(right)
    seen = expressions.alike(one, other)
    if seen != "different":
        return seen  # type: ignore[return-value]
    if not isinstance(one, Fraction) or not isinstance(other, Fraction):
        if (_DEGREE in walk(left)) != (_DEGREE in walk(right)):
            return _degrees_left_out(left, right)
    if _rounded(left, one, other) or _rounded(right, other, one):
        return "same"
    if isinstance(one, Fraction) != isinstance(other, Fraction):
        one, other = expressions.real(one), expressions.real(other)
    return "unsure" if abs(one - other) * 100 <= max(abs(one), abs(other)) else "different"


def _rounded(left: Node, decimal: Any, exact: Any) -> bool:
    """Is one side a decimal of six digits or more, and the other one no decimal, but that when it is rounded or cut?"""
    places = _places(left)
    if not places or not isinstance(decimal, Fraction) or abs(decimal.numerator) < 10**5:
        return False
    if isinstance(exact, Fraction) and _places(("num", exact)) is not None:
        return False
    return bool(abs((exact - decimal if isinstance(exact, Fraction) else exact - expressions.real(decimal)) * 10**places) < 1)


_DEGREE: Node = ("const", "degree")


def _degrees_left_out(left: Node, right: Node) -> Verdict:
    """(n - 2) 180 / n means degrees, sin 30 perhaps not."""
    parts = [*walk(left), *walk(right)]
    if any(part[0] == "fn" for part in parts) or ("const", "pi") in parts:
        return "unsure"
    seen = expressions.compare(_without_degrees(left), _without_degrees(right))
    return "same" if seen == "same" else "unsure"


def _without_degrees(node: Node) -> Node:
    if node == _DEGREE:
        return ("num", Fraction(1))
    return tuple(_without_degrees(part) if isinstance(part, tuple) else part for part in node)


def _unlike_names(left: Node, right: Node) -> bool:
    """Other variables may be the same under other names; ABC may be BAC."""
    both = names(left) | names(right)
    return names(left) != names(right) or any(len(name.rstrip("'")) > 1 and name.isalpha() for name in both)


# ---------------------------------------------------------------- lists, intervals, ratios, times


def _several(left: Several, right: Several) -> Verdict:
    if {left.brackets, right.brackets} & {"union", "matrix", "determinant", "row"} and left.brackets != right.brackets:
        return "unsure"
    if {left.joint, right.joint} == {"or", "and"}:
        return "unsure"
    if _record(left) or _record(right):
        return _records(left, right)
    if len(left.items) != len(right.items):
        return _other_lengths(left, right)
    in_order = _all_of([compare(a, b) for a, b in zip(left.items, right.items, strict=True)])
    if in_order == "same":
        return "same" if _same_brackets(left, right) else "unsure"
    if left.ordered and right.ordered:
        return in_order if _same_brackets(left, right) else "unsure"
    matched = _matched(list(left.items), list(right.items))
    if matched == "same" and (left.ordered or right.ordered or not any(map(_has_number, left.items))):
        return "unsure"  # the order of names may be the answer
    return matched


def _has_number(item: Reading) -> bool:
    return not isinstance(item, Value) or any(part[0] in ("num", "const") for part in walk(item.node))


def _same_brackets(left: Several, right: Several) -> bool:
    """A set may stand without braces; (1, 2), [1, 2] and 1, 2 may be three things."""
    loose = {"", "{}"}
    return left.brackets == right.brackets or {left.brackets, right.brackets} <= loose


def _other_lengths(left: Several, right: Several) -> Verdict:
    """Of sets, 3, 3 is 3; with an entry that the other lacks they are different."""
    if not _same_brackets(left, right):
        return "unsure"
    for some, others in ((left.items, right.items), (right.items, left.items)):
        if any(all(compare(one, other) == "different" for other in others) for one in some):
            return "different"
    return "unsure"


def _matched(left: list[Reading], right: list[Reading]) -> Verdict:
    """Is one list the other in some order? Equality is transitive, so the first partner is as good as any."""
    rest = list(right)
    certain = True
    for one in left:
        seen = [compare(one, other) for other in rest]
        if "same" in seen:
            rest.pop(seen.index("same"))
            continue
        if all(verdict == "different" for verdict in (compare(one, other) for other in right)):
            return "different"
        certain = False
    return "same" if not rest else "unsure" if not certain or rest else "different"


def _record(several: Several) -> bool:
    called = [getattr(item, "name", None) for item in several.items]
    return len(called) > 1 and None not in called and len(set(called)) == len(called)


def _records(left: Several, right: Several) -> Verdict:
    """a = 1, b = 2 by name; against values alone in the order as written."""
    if _record(left) and _record(right):
        by_name = [{item.name: item for item in side.items} for side in (left, right)]  # type: ignore[union-attr]
        if set(by_name[0]) != set(by_name[1]):
            return "unsure"
        return _all_of([compare(item, by_name[1][name]) for name, item in by_name[0].items()])
    other = right if _record(left) else left
    if len(left.items) != len(right.items) or other.name or other.brackets not in ("", "()", "cases"):
        return "unsure"
    pairs = [compare(_nameless(a), _nameless(b)) for a, b in zip(left.items, right.items, strict=True)]
    return "same" if _all_of(pairs) == "same" else "unsure"


def _nameless(reading: Reading) -> Reading:
    return replace(reading, name=None) if isinstance(reading, (Value, Several, Region, Ratio)) else reading


def _one_of_several(one: Value, several: Several) -> Verdict:
    """One number is no list of several, unless all of them are that number."""
    if (
        "," in one.text
        or several.brackets not in ("", "{}")
        or not all(isinstance(item, Value) for item in several.items)
    ):
        return "unsure"
    return "different" if any(compare(one, _nameless(item)) == "different" for item in several.items) else "unsure"


def _interval(several: Several) -> Region | None:
    if len(several.items) != 2 or several.brackets not in ("()", "[]", "(]", "[)"):
        return None
    low, high = several.items
    if not isinstance(low, Value) or not isinstance(high, Value) or low.unit or high.unit:
        return None
    return Region(low.node, high.node, (several.brackets[0] == "[", several.brackets[1] == "]"), several.name)


def _regions(left: Region, right: Region) -> Verdict:
    if left.unit and right.unit and left.unit != right.unit:
        return "unsure"
    seen = _all_of([_formulas(left.low, right.low), _formulas(left.high, right.high)])
    return "different" if seen == "same" and left.closed != right.closed else seen


def _unions(several: Several, region: Region) -> Verdict:
    return "different" if several.brackets == "union" and len(several.items) > 1 else "unsure"


def _ratios(left: Ratio, right: Ratio) -> Verdict:
    """Up to a factor: 10:15 is 2:3."""
    if len(left.terms) != len(right.terms):
        return "different"
    scaled = [
        _formulas(("mul", one, right.terms[0]), ("mul", other, left.terms[0]))
        for one, other in zip(left.terms[1:], right.terms[1:], strict=True)
    ]
    return _all_of(scaled)


def _clock_or_ratio(ratio: Ratio, clock: Clock) -> Verdict:
    """11:21 is the ratio that it looks like; 3:30 as 1:10 may be meant or not."""
    terms = ("num", Fraction(clock.hour)), ("num", Fraction(clock.minute))
    seen = _ratios(ratio, Ratio(terms))
    if seen == "same" and (ratio.terms != terms or clock.minute < 10):
        return "unsure"
    return seen


def _clocks(left: Clock, right: Clock) -> Verdict:
    """A reference without a.m. or p.m. is met by both; 4:20 as a ratio is 8:40, which is for others to say."""
    if (left.hour, left.minute) == (right.hour, right.minute) and left.half == right.half:
        return "same"
    if not left.half and right.half:
        return "same" if (left.hour % 12, left.minute) == (right.hour % 12, right.minute) else "different"
    if left.half == right.half == "" and left.hour * right.minute == right.hour * left.minute:
        return "unsure"
    return "unsure" if (left.hour % 12, left.minute) == (right.hour % 12, right.minute) else "different"


def _numbered(statements: Statements, several: Several) -> Verdict:
    """(1)(3) is 1, 3."""
    if several.brackets or not all(isinstance(item, Value) and item.node[0] == "num" for item in several.items):
        return "unsure"
    numbers = [item.node[1] for item in several.items]  # type: ignore[union-attr]
    if any(item.unit for item in several.items):  # type: ignore[union-attr]
        return "unsure"
    return "same" if len(set(numbers)) == len(numbers) and set(numbers) == statements.numbers else "unsure"


# ---------------------------------------------------------------- relations and equations


def _as_equation(reading: Value) -> Relation:
    return Relation((named_node(reading.name or ""), reading.node), ("=",))


def _relations(left: Relation, right: Relation) -> Verdict:
    if left.operators != right.operators:
        return "unsure"
    if _same_sides(left.operands, right.operands):
        return "same"
    if left.operators[0] in SYMMETRIC and len(left.operands) == 2 and _same_sides(left.operands, right.operands[::-1]):
        return "same"
    if left.operators == ("=",):
        return _equations(left, right)
    if left.operators in (("<",), (r"\le",)):
        return "same" if _proportion(left, right) > 0 else "unsure"
    return "unsure"


def _as_relation(region: Region) -> Relation | None:
    """x > 3 as 3 < x."""
    variable = named_node(region.name or "x")
    if region.high == INFINITY and region.low != ("neg", INFINITY):
        return Relation((region.low, variable), (r"\le" if region.closed[0] else "<",))
    if region.low == ("neg", INFINITY) and region.high != INFINITY:
        return Relation((variable, region.high), (r"\le" if region.closed[1] else "<",))
    return None


def _same_sides(left: Sequence[Node], right: Sequence[Node]) -> bool:
    return all(_formulas(one, other) == "same" for one, other in zip(left, right, strict=True))


def _difference(relation: Relation) -> Node:
    return ("add", relation.operands[0], ("neg", relation.operands[1]))


def _proportion(left: Relation, right: Relation) -> int:
    """The sign of the constant by which one difference of sides is a multiple of the other, 0 where there is none."""
    one, other = _difference(left), _difference(right)
    if names(one) != names(other) or not names(one):
        return 0
    quotients: list[Any] = []
    for number in range(expressions.POINTS):
        try:
            over, under = value(one, number), value(other, number)
            if over or under:
                quotients.append(over / under if over else 1 / over)
        except (Unread, ArithmeticError, ValueError, TypeError):
            return 0
    if len(quotients) < 2 or any(expressions.alike(quotients[0], more) != "same" for more in quotients[1:]):
        return 0
    return 0 if isinstance(quotients[0], complex) else 1 if expressions.real(quotients[0]).real > 0 else -1


def _equations(left: Relation, right: Relation) -> Verdict:
    """One equation is a multiple of the other, or solving one for a variable solves the other, in which it is linear."""
    if names(_difference(left)) != names(_difference(right)):
        return "unsure"
    if _proportion(left, right):
        return "same"
    verdicts = {seen for pair in ((left, right), (right, left)) if (seen := _substituted(*pair))}
    return verdicts.pop() if len(verdicts) == 1 else "unsure"


def _substituted(explicit: Relation, other: Relation) -> Verdict | None:
    """Of y = 9/x put into x y = 9. None where the first is not solved for a variable."""
    variable, solution = explicit.operands
    if variable[0] != "var" or variable[1] in names(solution):
        return None
    try:
        seen = [_at_point(variable[1], solution, _difference(other), point) for point in range(1, 4)]
    except (Unread, ArithmeticError, ValueError, TypeError):
        return "unsure"
    return "same" if all(seen) else "different" if not any(seen) else "unsure"


def _at_point(variable: str, solution: Node, difference: Node, number: int) -> bool:
    """Whether the difference is linear in the variable and zero at its solution; not linear is Unread."""
    point = {name: expressions.point(name, number) for name in names(solution) | names(difference)}
    solved = value(solution, point)
    at = [value(difference, point | {variable: solved + step}) for step in (0, 1, 2)]
    if expressions.alike(at[1] - at[0], at[2] - at[1]) != "same" or not at[1] - at[0]:
        raise Unread("not linear")
    return expressions.alike(at[0], Fraction(0)) == "same" or (at[0] == 0)


def _solved(relation: Relation, right: Value) -> Verdict:
    if relation.operators == ("=",) and right.name and not right.unit:
        return _equations(relation, _as_equation(right))
    return "unsure"
