"""Do two readings say the same? Different only where both are certain; equal ways to say one thing are same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from mm_prm.answers.equations import as_equation, as_relation, compare_equations, compare_relations, solved
from mm_prm.answers.formulas import walk
from mm_prm.answers.measures import compare_formulas, compare_values
from mm_prm.answers.quantities import Value, both_signs
from mm_prm.answers.readings import (
    Clock,
    Numeral,
    Range,
    Ratio,
    Reading,
    Region,
    Relation,
    Several,
    Statements,
    Words,
    nameless,
)
from mm_prm.answers.values import Verdict


def compare(left: Reading, right: Reading) -> Verdict:
    """Symmetric, but for a.m. and p.m., which the reference (left) may leave out."""
    left, right = _spread(left), _spread(right)
    if isinstance(left, Value) and isinstance(right, Value):
        return _named(left, right, compare_values(left, right))
    if type(left) is type(right):
        return _alike(left, right)
    seen = _mixed(left, right)
    return seen if seen != "unsure" else _mixed(right, left)


def _alike(left: Reading, right: Reading) -> Verdict:
    if isinstance(left, Several) and isinstance(right, Several):
        return _named(left, right, _several(left, right))
    if isinstance(left, Relation) and isinstance(right, Relation):
        return compare_relations(left, right)
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
    """Two kinds may say one thing: an equation and its right side, an interval and a pair, a ratio and a quotient."""
    if isinstance(left, Several) and len(left.items) == 1 and left.brackets in ("{}", "()", "[]"):
        return compare(left.items[0], right)
    if isinstance(left, Several) and isinstance(right, Region):
        return compare(interval, right) if (interval := _interval(left)) else _unions(left)
    if isinstance(left, Ratio) and isinstance(right, Value) and len(left.terms) == 2 and not right.unit:
        return compare_formulas(("div", *left.terms), right.node)
    if isinstance(left, Ratio) and isinstance(right, Clock) and not right.half:
        return _clock_or_ratio(left, right)
    if isinstance(left, Relation) and isinstance(right, Region):
        return compare_relations(left, one_sided) if (one_sided := as_relation(right)) else "unsure"
    if isinstance(left, Relation) and isinstance(right, Value):
        return solved(left, right)
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
        return compare_equations(as_equation(left), as_equation(right))
    return "unsure"


def _spread(reading: Reading) -> Reading:
    r"""\pm makes several values of one."""
    if isinstance(reading, Value) and reading.node[0] != "num" and len(both := both_signs(reading)) > 1:
        return Several(tuple(replace(one, name=None) for one in both), joint="", name=reading.name)
    if isinstance(reading, Several) and not reading.ordered and reading.brackets in ("", "{}"):
        items = tuple(
            one for item in reading.items for one in (both_signs(item) if isinstance(item, Value) else [item])
        )
        return replace(reading, items=items)
    return reading


def _all_of(verdicts: Sequence[Verdict]) -> Verdict:
    if "different" in verdicts:
        return "different"
    return "same" if all(verdict == "same" for verdict in verdicts) else "unsure"


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
    for one in left:
        seen = [compare(one, other) for other in rest]
        if "same" in seen:
            rest.pop(seen.index("same"))
        elif all(verdict == "different" for verdict in (compare(one, other) for other in right)):
            return "different"
    return "unsure" if rest else "same"


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
    pairs = [compare(nameless(a), nameless(b)) for a, b in zip(left.items, right.items, strict=True)]
    return "same" if _all_of(pairs) == "same" else "unsure"


def _one_of_several(one: Value, several: Several) -> Verdict:
    """One number is no list of several, unless all of them are that number."""
    if (
        "," in one.text
        or several.doubtful
        or several.brackets not in ("", "{}")
        or not all(isinstance(item, Value) for item in several.items)
    ):
        return "unsure"
    return "different" if any(compare(one, nameless(item)) == "different" for item in several.items) else "unsure"


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
    seen = _all_of([compare_formulas(left.low, right.low), compare_formulas(left.high, right.high)])
    return "different" if seen == "same" and left.closed != right.closed else seen


def _unions(several: Several) -> Verdict:
    """Of several pieces, against one interval."""
    return "different" if several.brackets == "union" and len(several.items) > 1 else "unsure"


def _ratios(left: Ratio, right: Ratio) -> Verdict:
    """Up to a factor: 10:15 is 2:3."""
    if len(left.terms) != len(right.terms):
        return "different"
    scaled = [
        compare_formulas(("mul", one, right.terms[0]), ("mul", other, left.terms[0]))
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
