"""Do two values with their units say the same? Different only where it is certain."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from mm_prm.answers import values
from mm_prm.answers.formulas import Node, Unread, names, walk
from mm_prm.answers.quantities import Value
from mm_prm.answers.units import ANY, DEGREE, PERCENT, Unit
from mm_prm.answers.values import Verdict, value


def compare_values(left: Value, right: Value) -> Verdict:
    if left.compact or right.compact:
        return _compact(left, right)
    if left.unit is None and right.unit is None:
        return compare_formulas(left.node, right.node)
    if left.unit is None or right.unit is None:
        return _one_unit(*((left, right) if right.unit else (right, left)))
    return _two_units(left, right)


def _compact(left: Value, right: Value) -> Verdict:
    """3m is three metres or three times m. Same needs both readings, or a unit on the other side that decides."""
    plain = replace(left, compact=False), replace(right, compact=False)
    quantity = compare_values(*plain)
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
    seen = compare_formulas(bare.node, measured.node)
    if seen == "same":
        return seen
    unit = measured.unit
    assert unit
    if unit == PERCENT:
        hundredth = compare_formulas(bare.node, ("div", measured.node, ("num", Fraction(100))))
        return hundredth if hundredth != "different" else seen
    if unit.dimension == DEGREE.dimension:
        radians = compare_formulas(
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
        if compare_formulas(bare, _times(measured.node, scale)) == "same":
            return "same"
    return "different"


def _times(node: Node, factor: Fraction, *more: Node) -> Node:
    return ("mul", node, ("num", factor), *more)


def _two_units(left: Value, right: Value) -> Verdict:
    """5 m is 500 cm; 5 students are not 5 teachers, as far as anyone knows."""
    one, other = left.unit, right.unit
    assert one and other
    if one == other or _is_any(one) or _is_any(other):
        return compare_formulas(left.node, right.node)
    if one.dimension == other.dimension:
        seen = compare_formulas(_times(left.node, one.factor), _times(right.node, other.factor))
        return _least(seen, _short_tons(left, right)) if seen == "different" else seen
    if _may_be_one_scale(one, other):
        return "unsure"
    seen = compare_formulas(left.node, right.node)
    return "different" if one.known and other.known and seen != "unsure" else _least(seen, "same")


_SCALES_OF_HEAT = {"K", "celsius", "fahrenheit", "degree"}
_TONNE, _SHORT_TON = 10**6, 2000 * Fraction("453.59237")  # grams


def _may_be_one_scale(one: Unit, other: Unit) -> bool:
    """20 degrees may be those of a thermometer, one of which is read off another; 5' may be feet, 5'' inches."""
    bases = {name for unit in (one, other) for name, power in unit.dimension if power == 1}
    simple = len(one.dimension) == len(other.dimension) == 1
    primes = any(unit.dimension == DEGREE.dimension and unit.factor != 1 for unit in (one, other))
    return simple and (bases <= _SCALES_OF_HEAT or (bases == {"degree", "m"} and primes))


def _short_tons(left: Value, right: Value) -> Verdict:
    """As `_two_units`, a ton being 2,000 pounds."""
    nodes = []
    for side in (left, right):
        assert side.unit
        nodes.append(_times(side.node, _SHORT_TON if side.unit.factor == _TONNE else side.unit.factor))
    return compare_formulas(*nodes)


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


def compare_formulas(left: Node, right: Node) -> Verdict:
    if left[0] == right[0] == "num":  # most are
        return "same" if left[1] == right[1] else _numbers(left[1], right[1])
    if left == right:
        return "same"
    seen, others = _compare_as_read(left, right), (_otherwise(left), _otherwise(right))
    return seen if others == (left, right) or _compare_as_read(*others) == seen else "unsure"


_TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}


def _otherwise(node: Node) -> Node:
    """What else a formula may mean: log without a base has 10, the angle in sin 30 is in degrees."""
    if node[0] not in ("fn", "mul", "add", "neg", "div", "pow", "root", "pm"):
        return node
    inner = tuple(_otherwise(part) if isinstance(part, tuple) else part for part in node)
    if node[:2] == ("fn", "log") and len(node) == 3:
        return ("fn", "lg", *inner[2:])
    angle = node[2] if node[0] == "fn" and node[1] in _TRIGONOMETRIC else None
    if angle and angle[0] == "num" and angle[1]:
        return ("fn", node[1], ("div", ("mul", angle, ("const", "pi")), ("num", Fraction(180))))
    return inner


def _compare_as_read(left: Node, right: Node) -> Verdict:
    try:
        if not names(left) and not names(right):
            return _constants(left, right)
        seen = values.compare(left, right)
    except (Unread, ArithmeticError, ValueError, TypeError, RecursionError):
        return "unsure"
    if seen == "same":
        return "same"
    if (_DEGREE in walk(left)) != (_DEGREE in walk(right)):
        return _degrees_left_out(left, right)
    return "unsure" if _unlike_names(left, right) else seen


def _constants(left: Node, right: Node) -> Verdict:
    one, other = value(left), value(right)
    seen = values.alike(one, other)
    if seen != "different":
        return seen
    exact = isinstance(one, Fraction) and isinstance(other, Fraction)
    if not exact and (_DEGREE in walk(left)) != (_DEGREE in walk(right)):
        return _degrees_left_out(left, right)
    if _rounded(left, one, other) or _rounded(right, other, one):
        return "same"
    if isinstance(one, Fraction) != isinstance(other, Fraction):
        one, other = values.real(one), values.real(other)
    return "unsure" if abs(one - other) * 100 <= max(abs(one), abs(other)) else "different"


def _rounded(left: Node, decimal: Any, exact: Any) -> bool:
    """Is one side a decimal of six digits or more, and the other one no decimal, but that when it is rounded or cut?"""
    places = _places(left)
    if not places or not isinstance(decimal, Fraction) or abs(decimal.numerator) < 10**5:
        return False
    if isinstance(exact, Fraction) and _places(("num", exact)) is not None:
        return False
    return bool(
        abs((exact - decimal if isinstance(exact, Fraction) else exact - values.real(decimal)) * 10**places) < 1
    )


_DEGREE: Node = ("const", "degree")


def _degrees_left_out(left: Node, right: Node) -> Verdict:
    """(n - 2) 180 / n means degrees, sin 30 perhaps not."""
    parts = [*walk(left), *walk(right)]
    if any(part[0] == "fn" for part in parts) or ("const", "pi") in parts:
        return "unsure"
    seen = values.compare(_without_degrees(left), _without_degrees(right))
    return "same" if seen == "same" else "unsure"


def _without_degrees(node: Node) -> Node:
    if node == _DEGREE:
        return ("num", Fraction(1))
    return tuple(_without_degrees(part) if isinstance(part, tuple) else part for part in node)


def _unlike_names(left: Node, right: Node) -> bool:
    """Other variables may be the same under other names; ABC may be BAC."""
    both = names(left) | names(right)
    return names(left) != names(right) or any(len(name.rstrip("'")) > 1 and name.isalpha() for name in both)
