"""Turn the scored candidates of ablations.sh into its tables and figures.

    python examples/desk/ablations.py --run_dir runs/desk_ablations

Writes tables.md, configs.png and candidates.png. For every training seed the
aggregation is the best one on dev. Intervals: 95 % of 2,000 bootstraps that
draw seeds and test problems; differences are paired in both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mm_prm import cli
from mm_prm.files import read_json, write_atomic, write_json
from mm_prm.records import parse_scored, read_checked
from mm_prm.selection import AGGREGATIONS, HEADLINE, Candidates, accuracy_columns, grid, step_scores
from mm_prm.statistics import interval, markdown_table, two_way, two_way_means

REFERENCE, CANDIDATES = "rollouts", 16
CONFIGS = {
    "rollouts": "rollout labels, soft, 5e-4, 8 rollouts a node, 400 problems",
    "rollouts_hard": "hard labels",
    "edges": "edge labels (the paper)",
    "edges_hard": "edge labels, hard",
    "edges_step": "edge labels, a marker after every step",
    "lr_1e-4": "learning rate 1e-4",
    "lr_2e-3": "learning rate 2e-3",
    "nodes_4": "4 rollouts a node, 12 searches",
    "nodes_16": "16 rollouts a node, 3 searches",
    "problems_50": "50 annotated problems",
    "problems_150": "150 annotated problems",
}
POLICIES = {"slips60": "rollouts", "slips45": "slips45", "slips30": "slips30"}  # and the config of its own PRM
BASELINES = ("random", "majority", "likelihood", "pass")


class Scored:
    """One PRM's scored candidates. parts: `policy/split` of each to its records."""

    def __init__(self, path: Path):
        self.parts: dict[str, list[dict[str, Any]]] = {}
        for record in read_checked(path, parse_scored):
            self.parts.setdefault(record["part"], []).append(record)
        self.problems = {part: [Candidates.of(record) for record in records] for part, records in self.parts.items()}

    @cache  # noqa: B019 - lives as long as the script
    def columns(self, part: str, k: int) -> dict[str, np.ndarray]:
        """Accuracies of every rule with k candidates, [problems] each."""
        return accuracy_columns(self.problems[part], k)


@dataclass
class Config:
    """All seeds of one config; policy: the one it was made from."""

    policy: str
    seeds: list[Scored]

    @cached_property
    def chosen(self) -> list[str]:
        """The aggregation of every seed, by dev accuracy."""
        columns = [seed.columns(f"{self.policy}/dev", CANDIDATES) for seed in self.seeds]
        return [max(AGGREGATIONS, key=lambda name: found[name].mean()) for found in columns]

    @property
    def tests(self) -> list[list[dict[str, Any]]]:
        return [seed.parts[f"{self.policy}/test"] for seed in self.seeds]

    def has(self, policy: str) -> bool:
        return f"{policy}/test" in self.seeds[0].parts

    def accuracy(self, rule: str | None = None, k: int = CANDIDATES, on: str | None = None) -> np.ndarray:
        """[seeds, problems]; rule None: the chosen one of every seed; on: another policy's candidates."""
        names = self.chosen if rule is None else [rule] * len(self.seeds)
        part = f"{on or self.policy}/test"
        return np.array([seed.columns(part, k)[name] for seed, name in zip(self.seeds, names, strict=True)])


def shown(configs: dict[str, Config]) -> dict[str, str]:
    """The rows of the table of configs, with their texts."""
    return {name: text for name, text in CONFIGS.items() if name in configs}


def config_table(configs: dict[str, Config], paths: Path) -> list[str]:
    reference = configs[REFERENCE].accuracy()
    head = [
        "config",
        "labels",
        "chosen on dev",
        "accuracy",
        "sd",
        "over the first",
        "mean_odd",
        "weighted vote",
        "AUROC",
    ]
    rows = []
    for name, text in shown(configs).items():
        config = configs[name]
        values = config.accuracy()
        labels = sum(label is not None for path in read_json(paths / f"{name}_paths.json") for label in path["labels"])
        chosen = ", ".join(f"{rule} {count}" for rule, count in Counter(config.chosen).most_common())
        shared = min(len(values), len(reference))  # seeds that both have so far
        against = "" if name == REFERENCE else two_way(values[:shared] - reference[:shared], "+")
        spread = f"{100 * values.mean(1).std(ddof=1):.1f}" if len(values) > 1 else ""
        area = np.mean([step_scores(records)["auroc"] for records in config.tests])
        others = [two_way(config.accuracy(rule)) for rule in (HEADLINE, "weighted_vote")]
        rows.append([text, f"{labels:,}", chosen, two_way(values), spread, against, *others, f"{area:.3f}"])
    return markdown_table(head, rows)


def policy_table(configs: dict[str, Config]) -> list[str]:
    """One row per policy: its baselines and every PRM on its candidates, its own and those made from others."""
    prms = {policy: configs[own] for policy, own in POLICIES.items() if own in configs}
    head = ["candidates of", *BASELINES, *(f"PRM of {policy}" for policy in prms)]
    head += ["own PRM, weighted vote", "own PRM over majority"]
    rows = []
    for policy in POLICIES:
        base = {name: configs[REFERENCE].accuracy(name, on=policy)[:1] for name in BASELINES}
        cells = [policy, *map(two_way, base.values())]
        cells += [two_way(prm.accuracy(on=policy)) if prm.has(policy) else "" for prm in prms.values()]
        if own := prms.get(policy):
            votes, gain = own.accuracy("weighted_vote"), own.accuracy() - base["majority"]
            cells += [two_way(votes), two_way(gain, "+")]
        else:
            cells += ["", ""]
        rows.append(cells)
    return markdown_table(head, rows)


def curves(configs: dict[str, Config]) -> dict[str, dict[int, np.ndarray]]:
    """By line of the figure and number of candidates: [seeds, problems]."""
    ours, edges = configs[REFERENCE], configs["edges"]
    sizes = grid(CANDIDATES)
    lines = {
        name: {k: ours.accuracy(name, k)[:1] for k in sizes} for name in ("pass", "majority", "likelihood", "random")
    }
    lines["PRM, rollout labels"] = {k: ours.accuracy(None, k) for k in sizes}
    lines["PRM-weighted vote, rollout labels"] = {k: ours.accuracy("weighted_vote", k) for k in sizes}
    lines["PRM, edge labels"] = {k: edges.accuracy(None, k) for k in sizes}
    return lines


def candidates_table(lines: dict[str, dict[int, np.ndarray]]) -> list[str]:
    sizes = list(next(iter(lines.values())))
    head = ["rule", *(f"N = {k}" for k in sizes)]
    return markdown_table(head, ([name, *(two_way(at[k]) for k in sizes)] for name, at in lines.items()))


def draw_candidates(lines: dict[str, dict[int, np.ndarray]], path: Path) -> None:
    figure = Figure(figsize=(6.4, 4.2), dpi=150)
    axes = figure.subplots()
    for number, (name, at) in enumerate(lines.items()):
        bounds = np.array([interval(two_way_means(values)) for values in at.values()])
        style = "-" if name.startswith("PRM") else "--"
        axes.plot(
            list(at),
            [100 * values.mean() for values in at.values()],
            style,
            color=f"C{number}",
            label=name,
            marker="o",
            markersize=3,
        )
        axes.fill_between(list(at), 100 * bounds[:, 0], 100 * bounds[:, 1], color=f"C{number}", alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(at), list(map(str, at)))
    axes.set(xlabel="candidates N", ylabel="accuracy, %", ylim=(0, 102))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def draw_configs(configs: dict[str, Config], path: Path) -> None:
    figure = Figure(figsize=(7.5, 4.2), dpi=150)
    axes = figure.subplots()
    for number, name in enumerate(shown(configs)):
        values = configs[name].accuracy()
        low, high = interval(two_way_means(values))
        axes.plot([100 * low, 100 * high], [-number] * 2, color="#c0392b", linewidth=2)
        axes.plot(100 * values.mean(1), [-number] * len(values), "|", color="#555555")
        axes.plot(100 * values.mean(), -number, "o", color="#c0392b")
    axes.axvline(
        100 * configs[REFERENCE].accuracy("majority").mean(), color="#2471a3", linestyle="--", label="majority vote"
    )
    names = list(shown(configs).values())
    axes.set_yticks([-number for number in range(len(names))], names, fontsize=7)
    axes.set(xlabel="Best-of-16 accuracy, %: mean and 95 % interval; bars: seeds")
    axes.grid(alpha=0.25, axis="x")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def join(run: Path, parts: list[str], output: Path) -> None:
    """Rollouts of several policies and splits as one file, `part` says which: one start of the PRM scores them all."""
    records = [record | {"part": part} for part in parts for record in read_json(run / f"{part}.json")]
    write_json(output, records)


def read_configs(run: Path) -> dict[str, Config]:
    """Those that were scored. Raises BadInput without the reference and the paper's own."""
    policies = dict.fromkeys(CONFIGS, "slips60") | {own: policy for policy, own in POLICIES.items()}
    configs = {
        name: Config(policy, [Scored(path) for path in sorted(run.glob(f"scored/{name}-*[0-9].json"))])
        for name, policy in policies.items()
    }
    missing = [name for name, config in configs.items() if not config.seeds]
    if {REFERENCE, "edges"} & set(missing):
        raise cli.BadInput(f"{run}: nothing scored yet for {', '.join(missing)}")
    if missing:
        print(f"not scored yet: {', '.join(missing)}")
    return {name: config for name, config in configs.items() if config.seeds}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder that ablations.sh wrote")
    parser.add_argument("--join", nargs="+", metavar="POLICY/SPLIT", help="write these rollouts as one file instead")
    parser.add_argument("--output_file", type=Path, help="of --join")
    args = parser.parse_args()
    run = args.run_dir
    if args.join:
        return join(run, args.join, args.output_file)
    configs = read_configs(run)
    lines = curves(configs)
    draw_candidates(lines, run / "candidates.png")
    draw_configs(configs, run / "configs.png")
    reference = configs[REFERENCE]
    title = (
        f"{len(reference.tests[0])} test problems, {CANDIDATES} candidates each, {len(reference.seeds)} training seeds"
    )
    parts = [f"{title}; in %, [95 % interval]", "", *config_table(configs, run / "rows"), ""]
    parts += [*policy_table(configs), "", *candidates_table(lines)]
    write_atomic(run / "tables.md", "\n".join(parts) + "\n")
    print("\n".join(parts))


if __name__ == "__main__":
    cli.run(main)
