"""Turn scored rollouts into Best-of-N accuracies, every baseline beside them, with bootstrap intervals.

    python eval/prm/extract_calculate.py --input_file scored.json --select_on dev_scored_score.json

Ties: where several candidates (or answers of a vote) share the best score, the accuracy is the mean over them, that is
the expectation of a random choice; no result depends on the order of candidates. A candidate without steps loses.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mm_prm import cli
from mm_prm.answers import normalise
from mm_prm.records import parse_scored, read_checked, read_json, write_json

EDGE = 1e-9  # scores are kept this far from 0 and 1, so that every logarithm and odds ratio is finite
BOOTSTRAPS, VOTE_SUBSETS = 2000, 32


def _clip(scores: Sequence[float]) -> np.ndarray:
    return np.clip(np.asarray(scores, dtype=np.float64), EDGE, 1 - EDGE)


# From one score per step to one number per candidate (paper, section 4); larger is better.
AGGREGATIONS: dict[str, Callable[[np.ndarray], float]] = {
    "min": lambda p: float(p.min()),
    "last": lambda p: float(p[-1]),
    "product": lambda p: float(p.prod()),
    "average": lambda p: float(p.mean()),
    "sum_logprob": lambda p: float(np.log(p).sum()),
    "max": lambda p: float(p.max()),
    "sum_logit": lambda p: float(np.log(p / (1 - p)).sum()),
    "mean_odd": lambda p: float((p / (1 - p)).mean()),
}
VOTE_WEIGHT = "min"  # the PRM-weighted vote adds this aggregation over candidates with the same answer


def aggregate(name: str, scores: Sequence[Sequence[float]]) -> list[float]:
    """One number per candidate; minus infinity for a candidate without steps."""
    return [AGGREGATIONS[name](_clip(steps)) if steps else -math.inf for steps in scores]


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
        total += decides * sum(group) / len(group)
        remaining -= len(group)
    return total / math.comb(len(labels), k)


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
    """`vote` over k of the candidates: exact for all of them, else the mean over seeded random subsets."""
    if k >= len(labels):
        return vote(answers, labels, weights)
    rng = random.Random(seed)
    subsets = [rng.sample(range(len(labels)), k) for _ in range(VOTE_SUBSETS)]
    return float(np.mean([vote(*([column[i] for i in s] for column in (answers, labels, weights))) for s in subsets]))


def problem_accuracies(record: dict[str, Any], k: int) -> dict[str, float]:
    """Accuracy of every selection rule on one problem with k candidates."""
    labels, scores = record["labels"], record["prm_scores"]
    k = min(k, len(labels))
    out = {"random": sum(labels) / len(labels), "pass": pass_at(labels, k)}
    if record.get("answers") is not None:
        answers = [normalise(answer or "").casefold() for answer in record["answers"]]
        weights = [max(value, 0.0) for value in aggregate(VOTE_WEIGHT, scores)]
        out["majority"] = vote_of(answers, labels, [1.0] * len(labels), k, record["id"])
        out["weighted_vote"] = vote_of(answers, labels, weights, k, record["id"])
    if record.get("logprobs") is not None:
        values = [value if steps else -math.inf for value, steps in zip(record["logprobs"], scores, strict=True)]
        out["likelihood"] = best_of(values, labels, k)
    return out | {name: best_of(aggregate(name, scores), labels, k) for name in AGGREGATIONS}


def interval(values: np.ndarray, draws: np.ndarray) -> list[float]:
    """95 % percentile bootstrap interval of the mean. values: [problems]; draws: [bootstraps, problems] indices."""
    return np.percentile(values[draws].mean(axis=1), [2.5, 97.5]).tolist()


def calculate(records: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The score file: every rule with accuracy (0..1), 95 % interval over problems and paired differences."""
    size = max(len(record["labels"]) for record in records)
    rows = [problem_accuracies(record, size) for record in records]
    names = [name for name in rows[0] if all(name in row for row in rows)]
    columns = {name: np.array([row[name] for row in rows]) for name in names}
    draws = np.random.default_rng(seed).integers(len(records), size=(BOOTSTRAPS, len(records)))
    result: dict[str, Any] = {"num_problems": len(records), "num_candidates": size}
    for name, values in columns.items():
        entry: dict[str, Any] = {"accuracy": float(values.mean()), "ci95": interval(values, draws)}
        for base in ("random", "majority"):
            if base in columns and name not in ("random", base):
                difference = values - columns[base]
                entry[f"minus_{base}"] = {"mean": float(difference.mean()), "ci95": interval(difference, draws)}
        result[f"pass@{size}" if name == "pass" else name] = entry
    result["by_k"] = {}
    for k in sorted({2**power for power in range(size.bit_length())} - {0} | {size}):
        if k <= size:
            at_k = [problem_accuracies(record, k) for record in records]
            result["by_k"][str(k)] = {name: float(np.mean([row[name] for row in at_k])) for name in names}
    return result


def select(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """The aggregation that was best in another score file (a dev split), with its result in this one."""
    other = read_json(path)
    try:
        name = max(AGGREGATIONS, key=lambda name: other[name]["accuracy"])
    except (KeyError, TypeError):
        raise cli.BadInput(f"{path}: not a score file") from None
    return {"aggregation": name, "selected_on": path.name, **result[name]}


def table(result: dict[str, Any]) -> str:
    """The result for the screen, in percent."""
    size = f"{result['num_problems']} problems, {result['num_candidates']} candidates each"
    lines = [f"{size}; accuracy in %, 95 % interval"]
    for name, entry in result.items():
        if isinstance(entry, dict) and "accuracy" in entry:
            low, high = (100 * bound for bound in entry["ci95"])
            label = f"selected: {entry['aggregation']}" if name == "selected" else name
            lines.append(f"{label:24s} {100 * entry['accuracy']:5.1f}  [{low:5.1f}, {high:5.1f}]")
    return "\n".join(lines)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="scored rollouts")
    parser.add_argument("--output_file", type=Path, help="default: <input>_score.json")
    parser.add_argument("--select_on", type=Path, help="score file of a dev split that decides the aggregation")
    parser.add_argument("--seed", type=int, default=0, help="decides the bootstrap draws")
    args = parser.parse_args()
    result = calculate(read_checked(args.input_file, parse_scored), args.seed)
    if args.select_on:
        result["selected"] = select(result, args.select_on)
    write_json(args.output_file or args.input_file.with_name(f"{args.input_file.stem}_score.json"), result)
    print(table(result))


if __name__ == "__main__":
    cli.run(main)
