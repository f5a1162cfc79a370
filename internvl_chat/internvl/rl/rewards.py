"""What an answer is worth: right, in the format asked for, and, where a PRM is given, good step by step.

    reward = accuracy_weight accuracy + format_weight format + prm_weight process

accuracy and format are 0 or 1; process is what PRM_MODES makes of the PRM's scores p_1 .. p_K of the steps. An answer
that nobody could judge has no reward: NaN, which `internvl.rl.advantages` leaves out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

DROP, DROP_COST = 0.3, 0.5  # URSA: a relative fall from one step to the next that counts, and gamma
MIN_TEMPERATURE = 0.1  # PURE

_TAG = "(?:step|think|answer)>"
_INSIDE = rf"(?!\s*</{_TAG})(?:(?!</?{_TAG}).)*"  # something
_STEPS = re.compile(rf"(?:<step>{_INSIDE}</step>\s*)+", re.DOTALL)
_THOUGHT = re.compile(rf"<think>{_INSIDE}</think>\s*", re.DOTALL)
_ANSWER = re.compile(rf"<answer>{_INSIDE}</answer>", re.DOTALL)
BEFORE_THE_ANSWER = {"tags": _STEPS, "think": _THOUGHT}


@dataclass(frozen=True)
class Weights:
    """MM-Eureka's and CPGD's: 1 for a right answer, 0.5 for the format."""

    accuracy: float = 1.0
    format: float = 0.5
    prm: float = 1.0


def in_format(text: str, step_format: str, answered: bool) -> bool:
    """Is the whole text what the format says, with nothing around it? `paragraphs` asks for an answer alone."""
    text = text.strip()
    if step_format not in BEFORE_THE_ANSWER:
        return answered
    before = BEFORE_THE_ANSWER[step_format].match(text)
    return bool(before and _ANSWER.fullmatch(text, before.end()))


# ---------------------------------------------------------------- the PRM's scores as a reward


def largest_fall(scores: Sequence[float]) -> float:
    """The largest relative fall from one step to the next, (p_j - p_j+1) / p_j; 0 with fewer than two steps."""
    return max((1 - after / before for before, after in pairwise(scores) if before > 0), default=0.0)


def drop(scores: Sequence[float], right: bool) -> float:
    """-gamma for a right answer whose steps fall: with its accuracy of 1, 1 - gamma (URSA PS-GRPO, 2501.04686)."""
    return -DROP_COST if right and largest_fall(scores) >= DROP else 0.0


def delta(scores: Sequence[float], right: bool) -> float:
    """The sum of p_k - p_k-1 telescopes: the last score, less p_0, which all answers of a prompt share (2410.08146)."""
    return scores[-1] if scores else 0.0


def soft_min(scores: Sequence[float], right: bool) -> float:
    """The sum of softmax(-p / 0.1)_k (2 p_k - 1), about the lowest step's (PURE, 2504.15275)."""
    weights = [math.exp(-score / MIN_TEMPERATURE) for score in scores]
    return sum(weight * (2 * score - 1) for weight, score in zip(weights, scores, strict=True)) / (sum(weights) or 1)


def mean(scores: Sequence[float], right: bool) -> float:
    """The mean score. Known to end below no process reward at all and to shorten answers (2501.04686): a warning."""
    return sum(scores) / len(scores) if scores else 0.0


PRM_MODES: dict[str, Callable[[Sequence[float], bool], float]] = {
    "none": lambda scores, right: 0.0,
    "drop": drop,
    "delta": delta,
    "min": soft_min,
    "mean": mean,
}


def reward(
    right: bool | None, well_formed: bool, scores: Sequence[float], prm_mode: str = "none", weights: Weights = Weights()
) -> float:
    """right: None where the judge could not decide; scores: the PRM's, in 0..1, one per step. NaN: no reward."""
    if right is None:
        return math.nan
    process = PRM_MODES[prm_mode](scores, right)
    return weights.accuracy * right + weights.format * well_formed + weights.prm * process
