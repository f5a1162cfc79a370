"""The value of a formula, and whether two formulas have the same.

Values are exact Fractions as long as they can be, else mpmath numbers of 50 digits; what would be huge is refused, so
that every comparison ends within milliseconds.
"""

from __future__ import annotations

import math
import zlib
from fractions import Fraction
from typing import Any, Literal

from mm_prm.answers.formulas import Node, Unread, names, walk

Verdict = Literal["same", "different", "unsure"]
# same and different are certain; unsure: equal in no way the rules know; compute: math-verify must be asked
Glance = Literal["same", "different", "unsure", "compute"]

DIGITS = 50  # of values that are no fractions
MOST_BITS = 40_000  # of an exact number


def _mpmath() -> Any:
    import mpmath  # takes a tenth of a second, and most answers are fractions

    mpmath.mp.dps = DIGITS
    return mpmath


def real(value: Any) -> Any:
    """A value as an mpmath number."""
    mp = _mpmath()
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = abs(exponent.numerator) * max(base.numerator.bit_length(), base.denominator.bit_length())
        if bits <= MOST_BITS or base in (0, 1, -1):
            return base ** (exponent.numerator if abs(base) != 1 else exponent.numerator % 2)
    return _bounded_power(real(base), real(exponent))


def _bounded_power(base: Any, exponent: Any) -> Any:
    mp = _mpmath()
    if base and abs(exponent) * (1 + abs(mp.log(abs(base), 2))) > 10**6:
        raise Unread("a huge power")
    return mp.power(base, exponent)


def _small_whole(value: Any) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 3000:
        raise Unread("no small whole number")
    return value.numerator


def _function(name: str, values: list[Any]) -> Any:
    if name == "abs":
        return abs(values[0])
    if name in ("floor", "ceil"):
        return _floor(values[0]) if name == "floor" else -_floor(-values[0])
    if name == "factorial":
        return Fraction(math.factorial(_small_whole(values[0])))
    if name == "binom":
        return Fraction(math.comb(*map(_small_whole, values)))
    if name in ("max", "min", "gcd", "lcm", "det"):
        raise Unread(name)
    return _analytic(name, [real(value) for value in values])


def _floor(value: Any) -> Fraction:
    if isinstance(value, Fraction):
        return Fraction(math.floor(value))
    mp = _mpmath()
    if mp.im(value):
        raise Unread("the floor of a complex number")
    return Fraction(int(mp.floor(value)))


def _analytic(name: str, values: list[Any]) -> Any:
    mp = _mpmath()
    if abs(values[0]) > mp.mpf(2) ** 2000:
        raise Unread("a function of a huge number")
    if name in ("log", "ln", "lg"):
        if len(values) > 1:
            return mp.log(values[0]) / mp.log(values[1])
        return mp.log10(values[0]) if name == "lg" else mp.log(values[0])
    known = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
    return getattr(mp, known.get(name, name))(values[0])


POINTS = 4  # a natural number, two positive numbers and a negative one for every variable


def point(name: str, number: int) -> Fraction:
    """The number of a variable at one of the points."""
    seed = zlib.crc32(name.encode())
    if number == 0:
        return Fraction(seed % 23 + 2)
    if number >= POINTS:  # far out
        return Fraction(seed % 89_989 + 1009) * (-1) ** number
    return Fraction(seed // (7 * number) % 8999 + 1013, 1000 * (number + 1)) * (-1 if number == 3 else 1)


def value(node: Node, where: int | dict[str, Any] = 0) -> Any:
    """The value where the variables have the numbers of a point. Raises Unread, ZeroDivisionError."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind == "var":
        return where[node[1]] if isinstance(where, dict) else point(node[1], where)
    if kind == "const":
        return _constant(node[1])
    if kind == "fn" and node[1].startswith("call "):
        return _call(node, where)
    if kind == "fn" and node[1] in _JUMPING and names(node):
        return _call(node, where)  # of which a few points say nothing: equal for equal arguments
    children = [value(child, where) for child in node[1:] if isinstance(child, tuple)]
    result = _apply(node, children)
    if isinstance(result, Fraction) and result.numerator.bit_length() + result.denominator.bit_length() > 4 * MOST_BITS:
        raise Unread("a huge number")
    return result


def _call(node: Node, where: int | dict[str, Any]) -> Fraction:
    """f(3): an unknown number that depends on f and on 3."""
    argument = value(node[2], where)
    shown = argument if isinstance(argument, Fraction) else _mpmath().nstr(argument, 30)
    seed = zlib.crc32(f"{node[1]} {shown} {where if isinstance(where, int) else ''}".encode())
    return Fraction(seed % 9973 + 1, 1000)


def _constant(name: str) -> Any:
    mp = _mpmath()
    if name == "infty":
        return mp.inf
    return {"pi": mp.pi + 0, "e": mp.e + 0, "i": mp.mpc(0, 1), "degree": mp.pi / 180}[name]


def _apply(node: Node, values: list[Any]) -> Any:
    kind = node[0]
    if kind == "fn":
        return _function(node[1], values)
    if kind == "neg":
        return -values[0]
    if kind == "pow":
        return _power(*values)
    if kind == "root":
        return _root(*values)
    if not all(isinstance(v, Fraction) for v in values):
        values = [real(v) for v in values]
    if kind == "add":
        return sum(values[1:], values[0])
    if kind == "mul":
        return math.prod(values[1:], start=values[0])
    if kind == "div":
        return values[0] / values[1]
    raise Unread(kind)


def _root(index: Any, inner: Any) -> Any:
    if isinstance(inner, Fraction) and index == 2 and inner >= 0:
        roots = math.isqrt(inner.numerator), math.isqrt(inner.denominator)
        if (roots[0] ** 2, roots[1] ** 2) == (inner.numerator, inner.denominator):
            return Fraction(*roots)
    if isinstance(inner, Fraction) and isinstance(index, Fraction) and inner < 0 and index.numerator % 2 and index > 0:
        return -_root(index, -inner)  # the real one
    return _bounded_power(real(inner), 1 / real(index))


# ---------------------------------------------------------------- do two formulas have the same value?


def alike(left: Any, right: Any) -> Verdict:
    """Two values: exactly for fractions, to 40 digits else."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return "same" if left == right else "different"
    mp = _mpmath()
    left, right = real(left), real(right)
    if mp.isnan(left) or mp.isnan(right):
        return "unsure"
    if mp.isinf(left) or mp.isinf(right):
        return "same" if left == right else "different"
    gap, size = abs(left - right), max(abs(left), abs(right))
    if gap <= size * mp.mpf(10) ** -40:
        return "same"
    lost = gap < size * mp.mpf(10) ** -12 or size < mp.mpf(10) ** -30
    return "unsure" if lost else "different"  # unsure: perhaps nothing but what rounding loses in a difference


def compare(left: Node, right: Node) -> Verdict:
    """Same: equal at every point. Different: equal at none. Formulas that are equal somewhere only are unsure."""
    if left == right:
        return "same"
    if not names(left) | names(right):
        return _at(left, right, 0) or "unsure"
    verdicts = {seen for number in range(POINTS) if (seen := _at(left, right, number))}
    pieces = _functions(left) | _functions(right)
    if "abs" in pieces and verdicts == {"same"}:  # |x - 100| is 100 - x for many an x
        verdicts |= {seen for number in (POINTS, POINTS + 1) if (seen := _at(left, right, number)) and seen != "unsure"}
    if "unsure" in verdicts or len(verdicts) != 1 or (pieces & _JUMPING and verdicts != {"same"}):
        return "unsure"
    return verdicts.pop()


_JUMPING = {"floor", "ceil"}


def _functions(node: Node) -> set[str]:
    """The functions of something with variables that are not smooth: floor, ceil and abs, roots as abs."""
    inner = {"fn": lambda n: n[1], "root": lambda n: "abs"}
    return {inner[n[0]](n) for n in walk(node) if n[0] in inner and names(n)}


def _at(left: Node, right: Node, number: int) -> Verdict | None:
    """None where both have no value."""
    values: list[Any] = []
    for node in (left, right):
        try:
            values.append(value(node, number))
        except ZeroDivisionError:
            values.append(None)
        except (Unread, ValueError, OverflowError, TypeError):
            return "unsure"
    if None in values:
        return None if values == [None, None] else "unsure"
    return alike(*values)
