"""How well does a PRM find wrong steps?

    python eval/prm/step_errors.py --input_file dev_scored.json
    python eval/prm/step_errors.py --input_file test_scored.json \\
        --select_on dev_scored_steps.json

Scored records of step_benchmarks.py in, the benchmark's numbers out. A step is
called correct if its score is at least the threshold: the best one of another
score file (a dev split), or --threshold, else 0.5. `best` in the score file is
what the file's own labels would choose.

visualprocessbench: F1 of the correct and of the wrong steps, and their mean
(macro F1), per source; neutral steps do not count. Overall is the macro F1 of
the steps of all sources together ("micro average" in arXiv 2503.10291).

processbench: a solution is judged rightly if its first step below the threshold
is its first wrong step, or if it has neither. Accuracy on all-correct and on
erroneous solutions, and their harmonic mean (F1), per subset. Overall is the
plain mean of the subsets (arXiv 2412.06559).

`source_mean` is the mean of the sources' F1, weighted by the steps or solutions
behind it. AUROC: how often a correct step has a higher score than a wrong one,
over all labelled steps. What has no steps or no labels counts nowhere; the F1
or accuracy of a class without members is 0, its AUROC null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mm_prm import cli
from mm_prm.files import read_json, write_json
from mm_prm.records import parse_scored, read_checked
from mm_prm.statistics import BOOTSTRAPS, auroc, interval

DEFAULT_THRESHOLD = 0.5

Scores = Sequence[float]
Labels = Sequence[int | None]
# What is counted, a step or a solution: (is it correct, low, high). Thresholds with low < threshold <= high are right.
Unit = tuple[int, float, float]


def step_units(scores: Scores, labels: Labels) -> list[Unit]:
    """Every labelled step: thresholds up to the score of a correct one are right, those above that of a wrong one."""
    steps = zip(scores, labels, strict=True)
    return [(1, -inf, score) if label else (0, score, inf) for score, label in steps if label is not None]


def solution_units(scores: Scores, labels: Labels) -> list[Unit]:
    """The solution: a right threshold is above the first wrong step's score and not above any before it."""
    if 0 in labels:
        first = labels.index(0)
        return [(0, scores[first], max(scores[first], min(scores[:first], default=inf)))]
    return [(1, -inf, min(scores))] if 1 in labels else []


def count(units: np.ndarray, thresholds: Sequence[float] | np.ndarray) -> np.ndarray:
    """[units, 3] -> [thresholds, 4]: correct units judged rightly, all correct ones, and the same of the wrong ones."""
    columns = []
    for label in (1, 0):
        low, high = (np.sort(units[units[:, 0] == label, side]) for side in (1, 2))
        columns += [np.searchsorted(low, thresholds) - np.searchsorted(high, thresholds)]
        columns += [np.full(len(thresholds), len(low))]
    return np.stack(columns, axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1e-12)  # 0 / 0 is 0


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """[..., 4] counts of steps -> [..., 3]: F1 of the correct ones, of the wrong ones, their mean."""
    right_correct, correct, right_wrong, wrong = np.moveaxis(counts, -1, 0)
    misjudged = correct - right_correct + wrong - right_wrong  # false positives + false negatives of either class
    first, second = (_ratio(2 * right, 2 * right + misjudged) for right in (right_correct, right_wrong))
    return np.stack([first, second, (first + second) / 2], axis=-1)


def first_error_f1(counts: np.ndarray) -> np.ndarray:
    """[..., 4] counts of solutions -> [..., 3]: accuracy on all-correct ones, on erroneous ones, harmonic mean."""
    first, second = (_ratio(counts[..., i], counts[..., i + 1]) for i in (0, 2))
    return np.stack([first, second, _ratio(2 * first * second, first + second)], axis=-1)


class Metric(NamedTuple):
    """units of a solution; rates: [..., 4] -> [..., 3] (correct, wrong, f1); overall: [..., sources, 4] -> [...]."""

    units: Callable[[Scores, Labels], list[Unit]]
    rates: Callable[[np.ndarray], np.ndarray]
    overall: Callable[[np.ndarray], np.ndarray]


def mean_of_sources(counts: np.ndarray) -> np.ndarray:
    """[..., sources, 4] counts of solutions -> mean F1 of the sources that have labelled solutions."""
    there = counts[..., 1] + counts[..., 3] > 0
    return (first_error_f1(counts)[..., 2] * there).sum(-1) / np.maximum(there.sum(-1), 1)


METRICS = {
    "visualprocessbench": Metric(step_units, macro_f1, lambda counts: macro_f1(counts.sum(-2))[..., 2]),
    "processbench": Metric(solution_units, first_error_f1, mean_of_sources),
}
COLUMNS = ("num_correct", "num_wrong", "correct", "wrong", "f1", "auroc")


def parse_steps(record: Any) -> dict[str, Any]:
    """A scored record with labelled steps. Raises ValueError that names the field."""
    record = parse_scored(record)
    if record.get("benchmark") not in list(METRICS):
        raise ValueError(f"field 'benchmark': expected one of {', '.join(METRICS)}")
    if not isinstance(record.get("source"), str):
        raise ValueError("field 'source' is missing or not text")
    labels, steps = record.get("step_labels"), [len(steps) for steps in record["solutions_splits"]]
    if not isinstance(labels, list) or [len(entry) if isinstance(entry, list) else -1 for entry in labels] != steps:
        raise ValueError("field 'step_labels': expected one label per step of every solution")
    if not all(label is None or label in (0, 1) for entry in labels for label in entry):
        raise ValueError("field 'step_labels': must be 1, 0 or null")
    return record


def units_of(record: dict[str, Any], units: Callable[[Scores, Labels], list[Unit]]) -> np.ndarray:
    """[units, 3] of all solutions of a problem."""
    solutions = zip(record["prm_scores"], record["step_labels"], strict=True)
    return np.array([unit for scores, labels in solutions for unit in units(scores, labels)], float).reshape(-1, 3)


def step_auroc(steps: np.ndarray) -> float | None:
    """steps: [steps, 3] from `step_units`, whose score is the finite bound."""
    is_correct = steps[:, 0] == 1
    return auroc(np.where(is_correct, steps[:, 2], steps[:, 1]), is_correct)


def best_threshold(sources: list[np.ndarray], metric: Metric) -> dict[str, float]:
    """The threshold with the best overall number, of all scores and one above them; the lowest of equals."""
    bounds = np.concatenate(sources)[:, 1:]
    scores = np.unique(bounds[np.isfinite(bounds)])
    thresholds = np.append(scores, np.nextafter(scores[-1], inf))
    overall = metric.overall(np.stack([count(units, thresholds) for units in sources], axis=1))
    return {"threshold": float(thresholds[overall.argmax()]), "overall": float(overall.max())}


def resampled(problems: list[np.ndarray], threshold: float, draws: np.random.Generator) -> np.ndarray:
    """[bootstraps, 4] counts of one source, its problems ([units, 3] each) drawn with replacement."""
    counts = np.concatenate([count(units, [threshold]) for units in problems])
    times = draws.multinomial(len(problems), np.full(len(problems), 1 / len(problems)), size=BOOTSTRAPS)
    return times @ counts


def calculate(records: list[dict[str, Any]], threshold: float, seed: int) -> dict[str, Any]:
    """The score file: rates (0..1) per source; overall, its 95 % interval over the problems of every source."""
    metric, draws = METRICS[records[0]["benchmark"]], np.random.default_rng(seed)
    groups = {name: [r for r in records if r["source"] == name] for name in sorted({r["source"] for r in records})}
    problems = [[units_of(record, metric.units) for record in group] for group in groups.values()]
    steps = [np.concatenate([units_of(record, step_units) for record in group]) for group in groups.values()]
    units = [np.concatenate(source) for source in problems]
    counts = np.concatenate([count(source, [threshold]) for source in units])  # [sources, 4]
    rates = metric.rates(counts)
    samples = np.stack([resampled(source, threshold, draws) for source in problems], axis=1)
    rows = [
        (int(numbers[1]), int(numbers[3]), *values.tolist(), step_auroc(source))
        for numbers, values, source in zip(counts, rates, steps, strict=True)
    ]
    return {
        "benchmark": records[0]["benchmark"],
        "num_problems": len(records),
        "num_solutions": sum(len(record["labels"]) for record in records),
        "threshold": threshold,
        "overall": float(metric.overall(counts)),
        "ci95": interval(metric.overall(samples)),
        "source_mean": float(np.average(rates[:, 2], weights=counts[:, [1, 3]].sum(1))),
        "auroc": step_auroc(np.concatenate(steps)),
        "sources": {name: dict(zip(COLUMNS, row, strict=True)) for name, row in zip(groups, rows, strict=True)},
        "best": best_threshold(units, metric),
        "problems": [record["id"] for record in records],
    }


def select(path: Path, records: list[dict[str, Any]]) -> tuple[float, str]:
    """The threshold that was best in another score file, and where it is from."""
    other = read_json(path)
    try:
        benchmark, threshold, theirs = other["benchmark"], float(other["best"]["threshold"]), set(other["problems"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise cli.BadInput(f"{path}: not a score file of this script") from None
    if benchmark != records[0]["benchmark"]:
        raise cli.BadInput(f"{path}: of {benchmark}, but the records are of {records[0]['benchmark']}")
    shared = len(theirs & {record["id"] for record in records})
    return threshold, path.name + (f", which holds {shared} of these {len(records)} problems" if shared else "")


def table(result: dict[str, Any]) -> str:
    """The result for the screen, rates in percent."""
    lines = [f"{result['num_problems']} problems, {result['num_solutions']} solutions; rates in %"]
    lines += [f"threshold {result['threshold']:.4g}: {result['threshold_from']}"]
    rows = [(name, *entry.values()) for name, entry in result["sources"].items()]
    for row in (("source", *COLUMNS), *rows, ("overall", "", "", "", "", result["overall"], result["auroc"])):
        cells = (f"{100 * cell:.1f}" if isinstance(cell, float) else "-" if cell is None else str(cell) for cell in row)
        lines.append("".join(f"{cell:>12s}" if column else f"{cell:20s}" for column, cell in enumerate(cells)))
    low, high = (100 * bound for bound in result["ci95"])
    lines += [f"overall: 95 % interval [{low:.1f}, {high:.1f}], mean of the sources {100 * result['source_mean']:.1f}"]
    lines += [f"for --select_on: these labels would choose threshold {result['best']['threshold']:.4g}"]
    return "\n".join(lines)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="scored records of step_benchmarks.py")
    parser.add_argument("--output_file", type=Path, help="default: <input>_steps.json")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--select_on", type=Path, help="score file of a dev split that decides the threshold")
    chosen.add_argument("--threshold", type=cli.non_negative, help=f"default: {DEFAULT_THRESHOLD}")
    parser.add_argument("--seed", type=int, default=0, help="decides the bootstrap draws")
    args = parser.parse_args()
    records = read_checked(args.input_file, parse_steps)
    if len({record["benchmark"] for record in records}) > 1:
        raise cli.BadInput(f"{args.input_file}: holds records of several benchmarks")
    if not any(label is not None for record in records for labels in record["step_labels"] for label in labels):
        raise cli.BadInput(f"{args.input_file}: no step has a label")
    threshold, source = DEFAULT_THRESHOLD, "the default"
    if args.select_on:
        threshold, source = select(args.select_on, records)
    elif args.threshold is not None:
        threshold, source = args.threshold, "--threshold"
    result = {"threshold_from": source} | calculate(records, threshold, args.seed)
    write_json(args.output_file or args.input_file.with_name(f"{args.input_file.stem}_steps.json"), result)
    print(table(result))


if __name__ == "__main__":
    cli.run(main)
