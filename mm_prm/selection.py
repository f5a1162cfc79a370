"""Ways to choose one of a problem's candidates, and how often each chooses a right one. No files, no bootstraps.

Ties: where several candidates (or answers of a vote) share the best value, the accuracy is the mean over them, that is
the expectation of a random choice; no result depends on the order of candidates. A candidate without steps loses.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mm_prm.answers import canonical
from mm_prm.statistics import auroc, brier, calibration_error

EDGE = 1e-9  # logarithms and odds ratios see no score, and no 1 - score, smaller than this
DIGITS = 12  # values that agree in so many digits are equal: rounding decides nothing
VOTE_SUBSETS = 32


def _bounded(p: np.ndarray) -> np.ndarray:
    return np.maximum(p, EDGE)


# From one score per step to one number per candidate (paper, section 4); larger is better.
AGGREGATIONS: dict[str, Callable[[np.ndarray], float]] = {
    "min": lambda p: p.min(),
    "last": lambda p: p[-1],
    "product": lambda p: p.prod(),
    "average": lambda p: p.mean(),
    "sum_logprob": lambda p: np.log(_bounded(p)).sum(),
    "max": lambda p: p.max(),
    "sum_logit": lambda p: (np.log(_bounded(p)) - np.log(_bounded(1 - p))).sum(),
    "mean_odd": lambda p: (p / _bounded(1 - p)).mean(),
}
HEADLINE = "mean_odd"  # the paper's
VOTE_WEIGHT = "min"  # the PRM-weighted vote adds this aggregation over candidates with the same answer


def aggregate(name: str, scores: Sequence[Sequence[float]]) -> list[float]:
    """One number per candidate, to 12 digits; minus infinity for a candidate without steps."""
    values = (AGGREGATIONS[name](np.asarray(steps, dtype=np.float64)) if steps else -math.inf for steps in scores)
    return [float(f"{value:.{DIGITS}g}") for value in values]


def best_of(values: Sequence[float], labels: Sequence[int], k: int) -> float:
    """Expected accuracy of the best-valued candidate over all k-subsets of the candidates, ties averaged.

    A group of equal values decides a subset that holds one of it and nothing better:
    [C(n - better, k) - C(n - better - size, k)] / C(n, k).
    """
    groups: dict[float, list[int]] = defaultdict(list)
    for value, label in zip(values, labels, strict=True):
        groups[value].append(label)
    remaining, total = len(labels), 0.0
    for value in sorted(groups, reverse=True):
        group = groups[value]
        decides = math.comb(remaining, k) - math.comb(remaining - len(group), k)
        total += decides / math.comb(len(labels), k) * sum(group) / len(group)  # whole numbers first: they may be huge
        remaining -= len(group)
    return total


def pass_at(labels: Sequence[int], k: int) -> float:
    """Unbiased pass@k: 1 - C(n - right, k) / C(n, k)."""
    return 1 - math.comb(len(labels) - sum(labels), k) / math.comb(len(labels), k)


def vote(answers: Sequence[str], labels: Sequence[int], weights: Sequence[float]) -> float:
    """Accuracy of the answer with the largest total weight, ties averaged; an empty answer does not vote."""
    weight: dict[str, float] = defaultdict(float)
    right: dict[str, list[int]] = defaultdict(list)
    for answer, label, value in zip(answers, labels, weights, strict=True):
        if answer:
            weight[answer] += value
            right[answer].append(label)
    if not weight:
        return 0.0
    top = max(weight.values())
    winners = [sum(right[a]) / len(right[a]) for a in weight if math.isclose(weight[a], top, rel_tol=1e-12)]
    return sum(winners) / len(winners)


def vote_of(answers: Sequence[str], labels: Sequence[int], weights: Sequence[float], k: int, seed: str) -> float:
    """`vote` over k of the candidates: exact for all of them and for one, else the mean over seeded random subsets."""
    if k >= len(labels):
        return vote(answers, labels, weights)
    if k == 1:
        subsets = [[number] for number in range(len(labels))]
    else:
        rng = random.Random(seed)
        subsets = [rng.sample(range(len(labels)), k) for _ in range(VOTE_SUBSETS)]
    return float(np.mean([vote(*([column[i] for i in s] for column in (answers, labels, weights))) for s in subsets]))  # type: ignore[arg-type]


@dataclass
class Candidates:
    """One problem's candidates. labels: [n], 0 or 1; values: one number per candidate, by the name of a rule that takes
    the largest; answers: [n] canonical, None when the record has none; seed: of the votes over subsets."""

    labels: list[int]
    values: dict[str, list[float]]
    answers: list[str] | None
    seed: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> Candidates:
        """From a scored record."""
        scores, values = record["prm_scores"], {}
        if record.get("logprobs") is not None:
            kept = [value if steps else -math.inf for value, steps in zip(record["logprobs"], scores, strict=True)]
            values["likelihood"] = kept
        values |= {name: aggregate(name, scores) for name in AGGREGATIONS}
        answers = record.get("answers")
        return cls(
            record["labels"],
            values,
            None if answers is None else canonical(answers, record.get("answer")),
            record["id"],
        )

    def accuracies(self, k: int) -> dict[str, float]:
        """Accuracy of every rule with k of the candidates, or with all when there are fewer."""
        labels, k = self.labels, min(k, len(self.labels))
        out = {"random": sum(labels) / len(labels), "pass": pass_at(labels, k)}
        if self.answers is not None:
            weights = [max(value, 0.0) for value in self.values[VOTE_WEIGHT]]
            out["majority"] = vote_of(self.answers, labels, [1.0] * len(labels), k, self.seed)
            out["weighted_vote"] = vote_of(self.answers, labels, weights, k, self.seed)
        return out | {name: best_of(values, labels, k) for name, values in self.values.items()}


def grid(size: int) -> list[int]:
    """1, 2, 4, ... and size."""
    return sorted({2**power for power in range(size.bit_length())} | {size})


def accuracy_columns(problems: Sequence[Candidates], k: int) -> dict[str, np.ndarray]:
    """Accuracy per problem, [problems], of every rule that all problems allow."""
    rows = [problem.accuracies(k) for problem in problems]
    return {name: np.array([row[name] for row in rows]) for name in rows[0] if all(name in row for row in rows)}


def step_scores(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How well a step's score tells whether its candidate ends right: AUROC, calibration error (15 bins), Brier.

    Undecided candidates are left out: how they end is not known.
    """
    pairs = [
        (score, label)
        for record in records
        for number, (scores, label) in enumerate(zip(record["prm_scores"], record["labels"], strict=True))
        if not (record.get("undecided") and record["undecided"][number])
        for score in scores
    ]
    if not pairs:
        return {"num_steps": 0, "auroc": None, "ece": None, "brier": None}
    scores, labels = np.array(pairs, dtype=np.float64).T
    return {
        "num_steps": len(scores),
        "auroc": auroc(scores, labels > 0.5),
        "ece": calibration_error(scores, labels),
        "brier": brier(scores, labels),
    }
