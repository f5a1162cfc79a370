"""The searches of search.sh -> its tables and figure.

    python examples/desk/search_study.py --run_dir runs/desk_search

Writes tables.md and search.png. Of a search's candidates the answer is that of
the rule which was best on dev for that PRM. A method is compared with Best-of-N
(any N up to 64, by exact expectation over subsets of the 64) at as many policy
tokens, and at as many tokens of policy and PRM together. Intervals: 95 % of
2,000 bootstraps that draw PRMs and problems, paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mm_prm import cli
from mm_prm.records import parse_scored, read_checked, read_object, write_atomic
from mm_prm.selection import AGGREGATIONS, Candidates, accuracy_columns, best_of
from mm_prm.statistics import cluster_draws, interval

POLICIES = {"slips60": "The policy of quickstart.sh (60 % slips)", "slips30": "A better policy (30 % slips)"}
METHODS = ("best_of_n", "beam", "annealed", "dvts", "greedy", "reject", "adaptive")
NUMBERS = (4, 16, 64)
ALL = max(NUMBERS)


def dev_rule(path: Path) -> str:
    """The aggregation whose Best-of-16 is best."""
    problems = [Candidates.of(record) for record in read_checked(path, parse_scored)]
    columns = accuracy_columns(problems, 16)
    return max(AGGREGATIONS, key=lambda name: columns[name].mean())


@dataclass
class Search:
    """One method with one N and one PRM. seconds: of the whole run; rule: that chooses the answer."""

    records: list[dict[str, Any]]
    seconds: float
    rule: str

    @cached_property
    def candidates(self) -> list[Candidates]:
        return [Candidates.of(record) for record in self.records]

    @cached_property
    def right(self) -> np.ndarray:
        """[problems]: accuracy of the chosen answer."""
        return accuracy_columns(self.candidates, 10**6)[self.rule]

    def mean(self, account: str) -> float:
        """Of an account, over problems."""
        return fmean(record["accounts"][account] for record in self.records)


Group = list[Search]  # the PRMs of one method and N


def costs(group: Group) -> dict[str, float]:
    """Means over problems and PRMs; total: tokens of policy and PRM."""
    names = ("policy_tokens", "prm_tokens", "prm_tokens_anew", "pictures")
    found = {name: fmean(search.mean(name) for search in group) for name in names}
    found["seconds"] = fmean(search.seconds / len(search.records) for search in group)
    return found | {"total": found["policy_tokens"] + found["prm_tokens"]}


def text(values: np.ndarray, sign: str = "") -> str:
    """Percent and interval. values: [PRMs, problems]."""
    seeds, problems = (cluster_draws(range(size), number).times for number, size in enumerate(values.shape))
    low, high = interval(((seeds @ values) * problems).sum(1) / values.size)
    return f"{100 * values.mean():{sign}.1f} [{100 * low:.1f}, {100 * high:.1f}]"


# ---------------------------------------------------------------- Best-of-N at any cost


class BestOfN:
    """The curve to compare with. at[k]: [PRMs, problems], accuracy of the best of k."""

    def __init__(self, groups: dict[int, Group]):
        self.group = groups[ALL]
        self.at = [np.zeros(0)] + [self.of(k) for k in range(1, ALL + 1)]
        known = {number: costs(group) for number, group in groups.items()}
        self.costs = {
            name: np.interp(range(ALL + 1), [0, *sorted(known)], [0.0, *(known[n][name] for n in sorted(known))])
            for name in ("policy_tokens", "total")
        }

    def of(self, k: int) -> np.ndarray:
        rows = [
            [best_of(one.values[search.rule], one.labels, min(k, len(one.labels))) for one in search.candidates]
            for search in self.group
        ]
        return np.array(rows)

    def at_cost(self, name: str, cost: float) -> np.ndarray | None:
        """Its accuracy at that cost, between two numbers of candidates; None beyond its largest."""
        number = float(np.interp(cost, self.costs[name], range(ALL + 1)))
        if cost > self.costs[name][-1]:
            return None
        low = max(1, int(number))
        high = min(low + 1, ALL)
        share = min(max(number - low, 0.0), 1.0)
        return (1 - share) * self.at[low] + share * self.at[high]


# ---------------------------------------------------------------- tables and figure


def read_groups(run: Path, policy: str) -> dict[tuple[str, int], Group]:
    found: dict[tuple[str, int], Group] = {}
    rules = {path.stem.removeprefix("dev_"): dev_rule(path) for path in sorted(run.glob("dev_*.json"))
             if not path.stem.endswith("_run")}  # fmt: skip
    for method in METHODS:
        for number in NUMBERS:
            for seed, rule in rules.items():
                path = run / policy / f"{method}-{number}-{seed}.json"
                if path.exists():
                    seconds = read_object(path.with_name(f"{path.stem}_run.json"))["accounts"]["seconds"]
                    found.setdefault((method, number), []).append(
                        Search(read_checked(path, parse_scored), seconds, rule)
                    )
    return found


def difference(group: Group, curve: BestOfN | None, name: str) -> str:
    """Over Best-of-N at the same cost."""
    if curve is None or len(group) != len(curve.group):
        return ""
    other = curve.at_cost(name, costs(group)[name])
    return "beyond 64" if other is None else text(np.array([search.right for search in group]) - other, "+")


def row(method: str, number: int, group: Group, curve: BestOfN | None) -> str:
    cost = costs(group)
    cells = [method, str(number), str(len(group)), text(np.array([search.right for search in group]))]
    cells += [f"{cost[name]:,.0f}" for name in ("policy_tokens", "prm_tokens", "prm_tokens_anew")]
    cells += [f"{cost['pictures']:.1f}", f"{cost['seconds']:.2f}"]
    cells += ["", ""] if method == "best_of_n" else [difference(group, curve, n) for n in ("policy_tokens", "total")]
    return f"| {' | '.join(cells)} |"


def baselines(group: Group) -> list[str]:
    """What needs no PRM, or uses it in another way, on the candidates of Best-of-64."""
    names = ("random", "majority", "likelihood", "weighted_vote", "pass")
    lines = [f"| rule | {' | '.join(f'N = {number}' for number in NUMBERS)} |", "|---" * (len(NUMBERS) + 1) + "|"]
    columns = {k: [accuracy_columns(search.candidates, k) for search in group] for k in NUMBERS}
    for name in names:
        if all(name in found for found in columns[ALL]):
            cells = [text(np.array([found[name] for found in columns[k]])) for k in NUMBERS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def table(groups: dict[tuple[str, int], Group], curve: BestOfN | None) -> list[str]:
    head = ["method", "N", "PRMs", "accuracy", "policy tokens", "PRM tokens", "PRM tokens, each text anew", "pictures",
            "s a problem", "over Best-of-N, same policy tokens", "same tokens of both"]  # fmt: skip
    rows = [row(method, number, group, curve) for (method, number), group in groups.items()]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows, ""]


def curve_of(groups: dict[tuple[str, int], Group]) -> BestOfN | None:
    found = {number: group for (method, number), group in groups.items() if method == "best_of_n"}
    return BestOfN(found) if ALL in found else None


def points_of(groups: dict[tuple[str, int], Group], method: str, account: str) -> list[tuple[float, float]]:
    """(cost, accuracy in percent) of a method, by its cost."""
    found = [group for (name, _), group in groups.items() if name == method]
    return sorted((costs(group)[account], 100 * fmean(search.right.mean() for search in group)) for group in found)


def draw(parts: Sequence[tuple[str, dict[tuple[str, int], Group], BestOfN | None]], path: Path) -> None:
    figure = Figure(figsize=(10, 4 * len(parts)), dpi=150, layout="constrained")
    panels = figure.subplots(len(parts), 2, squeeze=False)
    for (title, groups, curve), line in zip(parts, panels, strict=True):
        for axes, name in zip(line, ("policy_tokens", "total"), strict=True):
            if curve:
                axes.plot(
                    curve.costs[name][1:], [100 * at.mean() for at in curve.at[1:]], color="black", label="best_of_n"
                )
            for number, method in enumerate(METHODS[1:]):
                if points := points_of(groups, method, name):
                    axes.plot(*zip(*points, strict=True), "o-", ms=4, color=f"C{number}", label=method)
            what = "policy tokens a problem" if name == "policy_tokens" else "tokens of policy and PRM a problem"
            axes.set(xscale="log", xlabel=what, ylabel="accuracy, %", title=title)
            axes.grid(alpha=0.25)
        line[0].legend(fontsize=7)
    figure.savefig(path)


def report(run: Path) -> str:
    lines, parts = [], []
    for policy, title in POLICIES.items():
        groups = read_groups(run, policy)
        if groups:
            curve = curve_of(groups)
            first = next(iter(groups.values()))
            rules = ", ".join(search.rule for search in first)
            lines += [f"## {title}", "", f"{len(first[0].records)} problems; rules fixed on dev: {rules}", ""]
            lines += baselines(curve.group) if curve else []
            lines += table(groups, curve)
            parts.append((title, groups, curve))
    if not lines:
        raise cli.BadInput(f"{run}: no search is finished yet")
    draw(parts, run / "search.png")
    return "\n".join(lines)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder that search.sh wrote")
    args = parser.parse_args()
    write_atomic(args.run_dir / "tables.md", shown := report(args.run_dir))
    print(shown)


if __name__ == "__main__":
    cli.run(main)
