"""When two beginnings of a solution are one, so that their rollouts are counted together.

    exact     their texts are equal
    guarded   their steps have the same numbers and the same operators, in order, whatever the words around them
    hidden    guarded, and the policy is in nearly the same state at the end of both

Words that differ may mean the same, and words that are nearly equal may not: without the guard, wrong mathematics is
merged with right mathematics that differs from it in one digit.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping

import numpy as np

Steps = tuple[str, ...]
# What a step is known by, given the steps before it: [0 .. at] of a solution
Key = Callable[[Steps, int], Hashable]

OPERATORS = {"plus": "+", "minus": "-", "times": "x", "over": "/", "*": "x", "×": "x", "·": "x", "÷": "/"}
OPERATORS |= {r"\times": "x", r"\cdot": "x", r"\div": "/", "\N{MINUS SIGN}": "-"}
TOKEN = re.compile(
    r"\d+(?:\.\d+)?|\\[a-zA-Z]+|[-+*/^×·÷\N{MINUS SIGN}]|(?<=\d) ?x ?(?=\d)|\b(?:plus|minus|times|over)\b"
)


def exact(steps: Steps, at: int) -> Hashable:
    return steps[at]


def guarded(steps: Steps, at: int) -> Hashable:
    """The step's numbers and operators in order; its text where it has no number."""
    tokens = TOKEN.findall(steps[at].lower())
    if not any(token[0].isdigit() for token in tokens):
        return steps[at]
    return tuple(OPERATORS.get(token.strip(), token.strip()) for token in tokens)


CLOSE = 0.95  # cosine of two hidden states that are one


def clusters(states: Mapping[Steps, np.ndarray], close: float = CLOSE) -> dict[Steps, int]:
    """The number of every beginning's cluster among those that are one up to their last step and have the same guard:
    the first cluster whose first member's state is close enough.

    states: of beginnings, [width] of length 1, each behind its own beginnings.
    """
    found: dict[Steps, int] = {}
    numbers: dict[Hashable, int] = {}  # of merged beginnings
    merged: dict[Steps, int] = {(): 0}
    members: dict[Hashable, list[np.ndarray]] = defaultdict(list)
    for steps, state in states.items():
        place = (merged[steps[:-1]], guarded(steps, len(steps) - 1))
        alike = members[place]
        found[steps] = next((number for number, first in enumerate(alike) if first @ state >= close), len(alike))
        if found[steps] == len(alike):
            alike.append(state)
        merged[steps] = numbers.setdefault((place, found[steps]), len(numbers) + 1)
    return found


KEYS: dict[str, Key] = {"exact": exact, "guarded": guarded}
