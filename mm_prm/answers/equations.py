"""Do two equations, or two inequalities, say the same?"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from mm_prm.answers import values
from mm_prm.answers.formulas import Node, Unread, names
from mm_prm.answers.measures import compare_formulas
from mm_prm.answers.quantities import Value, named_node
from mm_prm.answers.readings import INFINITY, SYMMETRIC, Region, Relation
from mm_prm.answers.values import Verdict, value


def as_equation(reading: Value) -> Relation:
    return Relation((named_node(reading.name or ""), reading.node), ("=",))


def compare_relations(left: Relation, right: Relation) -> Verdict:
    if left.operators != right.operators:
        return "unsure"
    if _same_sides(left.operands, right.operands):
        return "same"
    if left.operators[0] in SYMMETRIC and len(left.operands) == 2 and _same_sides(left.operands, right.operands[::-1]):
        return "same"
    if left.operators == ("=",):
        return compare_equations(left, right)
    if left.operators in (("<",), (r"\le",)):
        return "same" if _proportion(left, right) > 0 else "unsure"
    return "unsure"


def as_relation(region: Region) -> Relation | None:
    """x > 3 as 3 < x."""
    variable = named_node(region.name or "x")
    if region.high == INFINITY and region.low != ("neg", INFINITY):
        return Relation((region.low, variable), (r"\le" if region.closed[0] else "<",))
    if region.low == ("neg", INFINITY) and region.high != INFINITY:
        return Relation((variable, region.high), (r"\le" if region.closed[1] else "<",))
    return None


def _same_sides(left: Sequence[Node], right: Sequence[Node]) -> bool:
    return all(compare_formulas(one, other) == "same" for one, other in zip(left, right, strict=True))


def _difference(relation: Relation) -> Node:
    return ("add", relation.operands[0], ("neg", relation.operands[1]))


def _proportion(left: Relation, right: Relation) -> int:
    """The sign of the constant by which one difference of sides is a multiple of the other, 0 where there is none."""
    one, other = _difference(left), _difference(right)
    if names(one) != names(other) or not names(one):
        return 0
    quotients: list[Any] = []
    for number in range(values.POINTS):
        try:
            over, under = value(one, number), value(other, number)
            if over or under:
                quotients.append(over / under if over else 1 / over)
        except (Unread, ArithmeticError, ValueError, TypeError):
            return 0
    if len(quotients) < 2 or any(values.alike(quotients[0], more) != "same" for more in quotients[1:]):
        return 0
    return 0 if isinstance(quotients[0], complex) else 1 if values.real(quotients[0]).real > 0 else -1


def compare_equations(left: Relation, right: Relation) -> Verdict:
    """One equation is a multiple of the other, or what one is solved for is linear in the other and solves it."""
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
    point = {name: values.point(name, number) for name in names(solution) | names(difference)}
    solved = value(solution, point)
    at = [value(difference, point | {variable: solved + step}) for step in (0, 1, 2)]
    if values.alike(at[1] - at[0], at[2] - at[1]) != "same" or not at[1] - at[0]:
        raise Unread("not linear")
    return values.alike(at[0], Fraction(0)) == "same" or (at[0] == 0)


def solved(relation: Relation, right: Value) -> Verdict:
    if relation.operators == ("=",) and right.name and not right.unit:
        return compare_equations(relation, as_equation(right))
    return "unsure"
