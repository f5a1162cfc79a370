"""The PRMs of labels.sh -> its tables and figures.

    python examples/desk/labels_study.py --run_dir runs/desk_labels

Reads <policy>/measured and the account.json of the sets of rollouts, writes
tables.md and frontier.png. For every training seed the rule of Best-of-16 and
the threshold of a wrong step are the best ones on dev. F1 is the harmonic mean
of the shares of solutions without and with a wrong step whose first wrong step,
or its absence, was found. Intervals: 95 % of 2,000 bootstraps that draw seeds
(with their sets of rollouts) and test problems.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

# ruff: noqa: E402 - a study runs the stages' own code
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "eval/prm"))
from labels_measure import WITHOUT_PRM
from step_errors import first_error_f1

from mm_prm import cli
from mm_prm.files import read_json, write_atomic
from mm_prm.statistics import in_percent, interval, markdown_table, two_way_means, two_way_times

POLICIES = {
    "k100": "100 wordings",
    "k10": "10 wordings",
    "k1": "one wording",
    "slips30": "100 wordings, a teacher that slips half as often",
    "rl": "100 wordings, made better by stage 7",
}
PRMS = {  # its rollouts, and what the tables call it
    "edges": ("trees", "edges (the paper)"),
    "edges_step": ("trees", "edges, a marker after every step"),
    "rollouts": ("trees", "rollouts"),
    "hard": ("trees", "rollouts, hard"),
    "outcome": ("trees", "outcome"),
    "own": ("trees", "rollout_outcome"),
    "binomial": ("trees", "rollouts, binomial loss"),
    "beta_binomial": ("trees", "rollouts, beta-binomial loss"),
    "guarded": ("trees", "rollouts, merged by the guard"),
    "hidden": ("trees", "rollouts, merged by states"),
    "trees4-16": ("trees4-16", "rollouts, 4 to 16 a state"),
    "mix": ("mix", "outcome; trees of 50 problems, 8 plain rollouts of 150"),
    "plain2": ("plain2", "2 plain rollouts, rollout_outcome"),
    "plain4": ("plain4", "4 plain"),
    "plain8": ("plain8", "8 plain"),
    "plain16": ("plain16", "16 plain"),
    "plain32": ("plain32", "32 plain"),
    "plain4-16": ("plain4-16", "4 to 16 plain"),
    "plain4x400": ("plain4x400", "4 plain, 400 problems"),
    "plain2x800": ("plain2x800", "2 plain, 800 problems"),
    "guarded8": ("plain8", "8 plain, rollouts, merged by the guard"),
}
LINES = {  # of the figure
    "a search": ("edges", "rollouts", "outcome", "own", "trees4-16"),
    "plain rollouts": ("plain2", "plain4", "plain8", "plain16", "plain32"),
    "plain rollouts of 400 and 800 problems": ("plain4x400", "plain2x800"),
}

# ---------------------------------------------------------------- numbers with intervals


def accuracy(values: np.ndarray) -> tuple[float, np.ndarray]:
    """values: [seeds, problems]. The mean, and that of every draw."""
    return float(values.mean()), two_way_means(values)


def f1(found: np.ndarray) -> tuple[float, np.ndarray]:
    """found: [seeds, problems, 4]. The mean of the seeds' F1, and that of every draw."""
    seeds, problems = two_way_times(*found.shape[:2])
    of_seeds = first_error_f1(found.sum(1))[:, 2]
    drawn = first_error_f1(np.einsum("dp,spc->dsc", problems, found))[..., 2]
    return float(of_seeds.mean()), (drawn * seeds).sum(1) / len(found)


# ---------------------------------------------------------------- tables


def accounts(run: Path, policy: str, rollouts: str) -> list[dict[str, float]]:
    """Of the sets of rollouts: how many were drawn, in how many seconds, and the share of single prefixes."""
    paths = sorted((run / policy).glob(f"{rollouts}-[01]/account.json"))
    return [read_json(path) for path in paths]


def seeds_of(run: Path, policy: str, prm: str) -> list[dict[str, Any]]:
    """What labels_measure.py wrote of each."""
    return [read_json(path) for path in sorted((run / policy / "measured").glob(f"{prm}-[0-9].json"))]


@dataclass
class Result:
    """What a PRM's seeds showed."""

    name: str
    seeds: list[dict[str, Any]]
    rollouts: float
    seconds: float
    singles: float

    def accuracy_by(self, rule: str) -> tuple[float, np.ndarray]:
        return accuracy(np.array([seed["accuracy"][rule] for seed in self.seeds]))

    @cached_property
    def accuracy(self) -> tuple[float, np.ndarray]:
        return self.accuracy_by("best_of_16")

    @cached_property
    def f1(self) -> tuple[float, np.ndarray]:
        return f1(np.array([seed["found"] for seed in self.seeds]))

    def row(self) -> list[str]:
        rules = ", ".join(sorted({seed["rule"] for seed in self.seeds}))
        vote = self.accuracy_by("weighted_vote")
        cells = [PRMS[self.name][1], f"{self.rollouts:,.0f}", f"{self.seconds:.0f}", f"{100 * self.singles:.0f} %"]
        cells += [str(len(self.seeds)), in_percent(*self.accuracy), rules, in_percent(*vote), in_percent(*self.f1)]
        return [*cells, f"{fmean(seed['auroc'] for seed in self.seeds):.3f}"]


def results(run: Path, policy: str) -> list[Result]:
    found = []
    for name, (rollouts, _) in PRMS.items():
        seeds, spent = seeds_of(run, policy, name), accounts(run, policy, rollouts)
        if seeds and spent:
            found.append(
                Result(name, seeds, *(fmean(a[key] for a in spent) for key in ("rollouts", "seconds", "singles")))
            )
    return found


def baselines(result: Result) -> str:
    """They are the same for every PRM."""
    names = [name for name in WITHOUT_PRM if name in result.seeds[0]["accuracy"]]
    return ", ".join(f"{name} {in_percent(*result.accuracy_by(name))}" for name in names)


def table(found: Sequence[Result]) -> list[str]:
    head = ["labels", "rollouts", "s", "single prefixes", "PRMs", "Best-of-16", "rules", "weighted vote", "F1", "AUROC"]
    return [*markdown_table(head, (result.row() for result in found)), ""]


def draw_frontier(found: Sequence[Result], path: Path) -> None:
    figure = Figure(figsize=(9, 4), dpi=150, layout="constrained")
    by_name = {result.name: result for result in found}
    for axes, title, kind in zip(
        figure.subplots(1, 2), ("Best-of-16, %", "first-error F1, %"), ("accuracy", "f1"), strict=True
    ):
        for number, (label, names) in enumerate(LINES.items()):
            there = [name for name in names if name in by_name]
            for name in there:
                value, draws = getattr(by_name[name], kind)
                low, high = interval(draws)
                at, style = by_name[name].rollouts, {"color": f"C{number}"}
                axes.plot([at, at], [100 * low, 100 * high], alpha=0.5, **style)
                axes.plot(at, 100 * value, "o", label=label if name == there[0] else None, **style)
                axes.annotate(name, (at, 100 * value), fontsize=6, xytext=(3, 2), textcoords="offset points")
        axes.set(xscale="log", xlabel="rollouts drawn", ylabel=title)
        axes.xaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:,.0f}", minor_formatter="")
        axes.margins(x=0.15)
        axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    figure.savefig(path)


def report(run: Path) -> str:
    lines: list[str] = []
    for policy, title in POLICIES.items():
        if found := results(run, policy):
            problems = len(found[0].seeds[0]["found"])
            lines += [f"## {title}", "", f"{problems} test problems; {baselines(found[0])}", "", *table(found)]
            if policy == "k100":
                draw_frontier(found, run / "frontier.png")
    if not lines:
        raise cli.BadInput(f"{run}: nothing measured yet")
    return "\n".join(lines)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder that labels.sh wrote")
    args = parser.parse_args()
    write_atomic(args.run_dir / "tables.md", shown := report(args.run_dir))
    print(shown)


if __name__ == "__main__":
    cli.run(main)
