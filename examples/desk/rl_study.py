"""The finished runs of rl.sh's study -> its tables and figures.

    python examples/desk/rl_study.py --run_dir runs/desk_rl

Writes tables.md, curves.png and stability.png. The criterion, written down
before the runs: a run has COLLAPSED when its last held-out pass@1 is below half
of the untrained policy's, or when it STOPPED: its gradient was not finite, or
server and trainer were more than 1e-3 apart. Intervals: 95 %, of 2,000
bootstraps that draw seeds and test problems; of shares of runs, Wilson's. The
rule of Best-of-16 is the average of a solution's step scores, chosen before the
runs as well.

    python examples/desk/rl_study.py --load runs/desk/policy \\
        --policy_endpoint http://127.0.0.1:8000/v1

gives a running server the weights of a folder.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from internvl.rl.objectives import ALGORITHMS
from internvl.rl.rewards import PRM_MODES
from internvl.rl.sync import reload
from matplotlib.figure import Figure

from mm_prm import cli
from mm_prm.files import read_json, read_jsonl, write_atomic
from mm_prm.records import parse_scored, read_checked
from mm_prm.selection import Candidates, accuracy_columns
from mm_prm.statistics import markdown_table, two_way, wilson

GOOD, EDGE = 2e-4, 1e-3  # learning rates
STABILITY = ("grpo", "grpo_dual_clip", "rloo", "reinforce_plus_plus", "cpg", "cpgd")
RULE, CANDIDATES = "average", 16
CONTROLS = {"with_resets": "caches emptied at every sync (as stage 7 does)", "without_resets": "prefix cache kept"}


@dataclass
class Run:
    """One training run. steps: the lines of its log, the first of them (step 0) of the untrained policy; stopped: by
    itself, before its last rollout."""

    name: str
    settings: dict[str, Any]
    steps: list[dict[str, Any]]
    stopped: bool

    @classmethod
    def read(cls, folder: Path) -> Run:
        stopped = (folder / "stopped.txt").exists()
        return cls(folder.name, read_json(folder / "settings.json"), read_jsonl(folder / "steps.jsonl"), stopped)

    @property
    def is_control(self) -> bool:
        return self.name.rsplit("_", 1)[0] in CONTROLS

    def is_of(self, algorithm: str, rate: float, mode: str = "none") -> bool:
        own = (self.settings["algorithm"], self.settings["learning_rate"], self.settings["prm_mode"])
        return own == (algorithm, rate, mode) and not self.is_control

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """(rollouts, held-out pass@1)."""
        return [(row["step"], row["pass_at_1"]) for row in self.steps if row.get("pass_at_1") is not None]

    @property
    def collapsed(self) -> bool:
        return self.stopped or self.curve[-1][1] < self.curve[0][1] / 2

    @property
    def seconds(self) -> float:
        """Of a rollout: draw, weigh, old, update, sync."""
        rows = [sum(value for name, value in row.items() if name.startswith("seconds_")) for row in self.steps[1:]]
        return median(rows)

    def last(self, name: str) -> float:
        return self.steps[-1][name]

    def largest(self, name: str) -> float:
        return max((row[name] for row in self.steps[1:]), default=math.nan)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*markdown_table(head, rows), ""]


def percent(values: Sequence[float]) -> str:
    """Mean, and the smallest and largest where there are several."""
    spread = f" ({100 * min(values):.0f} to {100 * max(values):.0f})" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}"


# ---------------------------------------------------------------- candidates


def columns(path: Path) -> dict[str, np.ndarray]:
    """Accuracy per problem of every rule with 16 candidates."""
    return accuracy_columns([Candidates.of(record) for record in read_checked(path, parse_scored)], CANDIDATES)


def candidate_cells(folder: Path, names: Sequence[str], rules: Sequence[str]) -> list[str]:
    found = [columns(path) for name in names if (path := folder / f"{name}.json").exists()]
    return [two_way(np.array([one[rule] for one in found])) if found else "" for rule in rules]


# ---------------------------------------------------------------- the parts of the study


def algorithms_table(runs: Sequence[Run], scored: Path) -> list[str]:
    rules = ("random", "majority", "pass", RULE)
    head = ["algorithm", "seeds", "held-out pass@1", "drawn, last rollout", "s a rollout", "pass@1 of 16", "majority"]
    rows = [["untrained", "", "", "", "", *candidate_cells(scored, ["first"], rules)]]
    for name in ALGORITHMS:
        ours = [run for run in runs if run.is_of(name, GOOD) and run.settings["seed"] < 3]
        if ours:
            seen = [percent([run.curve[-1][1] for run in ours]), percent([run.last("accuracy") for run in ours])]
            seconds = f"{fmean(run.seconds for run in ours):.1f}"
            own = candidate_cells(scored, [run.name for run in ours], rules)
            rows.append([f"`{name}`", str(len(ours)), *seen, seconds, *own])
    return table([*head, "pass@16", "Best-of-16, the first policy's PRM"], rows)


def stability_table(runs: Sequence[Run]) -> list[str]:
    head = ["rate", "algorithm", "runs", "collapsed", "of them stopped", "last pass@1", "best pass@1"]
    head += ["largest ratio: median, largest", "length", "format"]
    rows = []
    for rate in (GOOD, EDGE):
        for name in STABILITY:
            ours = [run for run in runs if run.is_of(name, rate)]
            if not ours:
                continue
            count = sum(run.collapsed for run in ours)
            low, high = wilson(count, len(ours))
            ratios = [run.largest("ratio_max") for run in ours]
            rows.append(
                [
                    *(f"{rate:g}", f"`{name}`", str(len(ours))),
                    f"{count} of {len(ours)} [{100 * low:.0f}, {100 * high:.0f}] %",
                    str(sum(run.stopped for run in ours)),
                    percent([run.curve[-1][1] for run in ours]),
                    percent([max(value for _, value in run.curve) for run in ours]),
                    f"{median(ratios):.3g}, {max(ratios):.3g}",
                    f"{fmean(run.last('length') for run in ours):.0f}",
                    f"{fmean(run.last('format') for run in ours):.2f}",
                ]
            )
    return table(head, rows)


def prm_table(runs: Sequence[Run], scored: Path) -> list[str]:
    head = [
        "--prm_mode",
        "seeds",
        "reward, last rollout",
        "PRM score",
        "drawn, last rollout",
        "held-out pass@1",
        "length",
    ]
    rows = []
    for mode in PRM_MODES:
        ours = [run for run in runs if run.is_of("cpgd", GOOD, mode) and run.settings["seed"] < 3]
        if not ours:
            continue
        found = [run.steps[-1]["prm"] for run in ours if run.steps[-1].get("prm") is not None]
        scores = f"{fmean(found):.2f}" if found else ""
        names = [run.name for run in ours]
        own = candidate_cells(scored, [f"{name}_own" for name in names], [RULE]) if mode == "none" else [""]
        rows.append(
            [
                *(f"`{mode}`", str(len(ours)), f"{fmean(run.last('reward') for run in ours):.2f}", scores),
                percent([run.last("accuracy") for run in ours]),
                percent([run.curve[-1][1] for run in ours]),
                f"{fmean(run.last('length') for run in ours):.0f}",
                *candidate_cells(scored, names, ["random", RULE]),
                *own,
            ]
        )
    return table(
        [*head, "pass@1 of 16", "Best-of-16, the first policy's PRM", "Best-of-16, PRM of its own trees"], rows
    )


def control_table(runs: Sequence[Run]) -> list[str]:
    rows = []
    for name, text in CONTROLS.items():
        if ours := [run for run in runs if run.name.rsplit("_", 1)[0] == name]:
            apart = [run.largest("mismatch") for run in ours]
            pass_at_1 = percent([run.curve[-1][1] for run in ours])
            rows.append([text, str(len(ours)), f"{median(apart):.1e}, {max(apart):.1e}", pass_at_1])
    return table(["sync", "seeds", "largest mismatch: median, largest", "held-out pass@1"], rows)


# ---------------------------------------------------------------- figures


def draw_curves(runs: Sequence[Run], path: Path) -> None:
    """Held-out pass@1 against rollouts at the good rate: the mean of the first three seeds."""
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(ALGORITHMS):
        ours = [run.curve for run in runs if run.is_of(name, GOOD) and run.settings["seed"] < 3]
        ours = [curve for curve in ours if len(curve) == max(map(len, ours))]  # a stopped run's is shorter
        if ours:
            means = [100 * fmean(value for _, value in points) for points in zip(*ours, strict=True)]
            axes.plot([step for step, _ in ours[0]], means, color=f"C{number}", marker="o", markersize=3, label=name)
    axes.set(xlabel="rollouts of 16 prompts x 8 answers", ylabel="held-out pass@1, %", ylim=(0, 100))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
    figure.savefig(path)


def draw_stability(runs: Sequence[Run], path: Path) -> None:
    """Every run at the edge: held-out pass@1, and the largest ratio, against rollouts."""
    figure = Figure(figsize=(9, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots(2, len(STABILITY), sharex=True, sharey="row")
    for column, name in zip(axes.T, STABILITY, strict=True):
        for run in runs:
            if run.is_of(name, EDGE):
                style = {"color": "#c0392b" if run.collapsed else "#2a8a3e", "linewidth": 1}
                column[0].plot(*zip(*[(step, 100 * value) for step, value in run.curve], strict=True), **style)
                column[1].plot(
                    [row["step"] for row in run.steps[1:]], [row["ratio_max"] for row in run.steps[1:]], **style
                )
        column[0].set_title(name, fontsize=8)
        column[1].set(yscale="log", xlabel="rollouts")
    axes[0, 0].set(ylabel="held-out pass@1, %", ylim=(0, 100))
    axes[1, 0].set(ylabel="largest ratio")
    figure.savefig(path)


# ---------------------------------------------------------------- all of it


def read_runs(folder: Path) -> list[Run]:
    """Those that are finished or have stopped."""
    ended = {path.parent for name in ("train_results.json", "stopped.txt") for path in folder.glob(f"*/{name}")}
    runs = [Run.read(path) for path in sorted(ended)]
    if not runs:
        raise cli.BadInput(f"{folder}: no finished run")
    return runs


def report(run_dir: Path) -> str:
    runs, scored = read_runs(run_dir / "runs"), run_dir / "scored"
    apart = max(run.largest("mismatch") for run in runs if not run.name.startswith("without_resets"))
    parts: list[tuple[str, Callable[[], list[str]]]] = [
        ("All algorithms at the good rate", lambda: algorithms_table(runs, scored)),
        ("Stability", lambda: stability_table(runs)),
        ("The PRM as a reward", lambda: prm_table(runs, scored)),
        ("Without emptying the caches", lambda: control_table(runs)),
    ]
    begun = {path.parent.name for path in (run_dir / "runs").glob("*/settings.json")} - {run.name for run in runs}
    lines = [f"{len(runs)} runs; largest mismatch, the control left out: {apart:.1e}", ""]
    lines += [f"Begun and not finished: {', '.join(sorted(begun))}", ""] if begun else []
    for title, make in parts:
        lines += [f"## {title}", "", *make()]
    draw_curves(runs, run_dir / "curves.png")
    draw_stability(runs, run_dir / "stability.png")
    return "\n".join(lines)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run_dir", type=Path, default=Path("runs/desk_rl"), help="folder that rl.sh wrote")
    parser.add_argument("--load", type=Path, help="give the server at --policy_endpoint these weights instead")
    parser.add_argument("--policy_endpoint", help="of --load")
    args = parser.parse_args()
    if args.load:
        asyncio.run(reload(args.policy_endpoint.removesuffix("/v1"), args.load.absolute()))
        return
    write_atomic(args.run_dir / "tables.md", text := report(args.run_dir))
    print(text)


if __name__ == "__main__":
    cli.run(main)
