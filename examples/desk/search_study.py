"""The searches of search.sh -> its tables and figure.

    python examples/desk/search_study.py --run_dir runs/desk_search

Writes tables.md and search.png. Of a search's candidates the answer is that of
the rule which was best on dev for that PRM. A method is compared with Best-of-N
(any N up to 64, by exact expectation over subsets of the 64) at as many policy
tokens, and at as many tokens of policy and PRM together. Intervals of 2,000
bootstraps that draw PRMs and problems: 95 %, of differences, which are paired,
99 %, for there are many.
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
from matplotlib.ticker import LogLocator

from mm_prm import cli
from mm_prm.files import read_object, write_atomic
from mm_prm.records import parse_scored, read_checked
from mm_prm.selection import AGGREGATIONS, Candidates, accuracy_columns, best_of
from mm_prm.statistics import interval, markdown_table, two_way, two_way_means

POLICIES = {"slips60": "The policy of quickstart.sh (60 % slips)", "slips30": "A better policy (30 % slips)"}
METHODS = ("best_of_n", "beam", "annealed", "dvts", "greedy", "reject", "adaptive")
NUMBERS = (4, 16, 64)
ALL = max(NUMBERS)
KNOTS = (1, 2, 4, 8, 16, 32, 64)  # numbers of candidates whose cost is known
AXES = {
    "policy_tokens": "policy tokens a problem",
    "total": "tokens of policy and PRM a problem",
    "total_anew": "the same, every text scored whole",
    "seconds": "seconds a problem",
}


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


Group = dict[str, Search]  # one method and N, by the PRM


def costs(group: Group) -> dict[str, float]:
    """Means over problems and PRMs; total: tokens of policy and PRM."""
    names = ("policy_tokens", "prm_tokens", "prm_tokens_anew", "pictures")
    found = {name: fmean(search.mean(name) for search in group.values()) for name in names}
    found["seconds"] = fmean(search.seconds / len(search.records) for search in group.values())
    found["total_anew"] = found["policy_tokens"] + found["prm_tokens_anew"]
    return found | {"total": found["policy_tokens"] + found["prm_tokens"]}


def right(group: Group) -> np.ndarray:
    """[PRMs, problems]."""
    return np.array([search.right for search in group.values()])


def bounds(values: np.ndarray, percent: float = 95) -> np.ndarray:
    """Of the mean. values: [PRMs, problems]."""
    return np.array(interval(two_way_means(values), percent))


# ---------------------------------------------------------------- Best-of-N at any cost


class BestOfN:
    """The curve to compare with. at[k]: [PRMs, problems], accuracy of the best of k; costs: by account, of 0 to 64."""

    def __init__(self, groups: dict[int, Group]):
        self.group = groups[ALL]
        self.at = [np.zeros(0)] + [self.of(k) for k in range(1, ALL + 1)]
        known = {number: costs(group) for number, group in sorted(groups.items())}
        self.costs = {
            name: np.interp(range(ALL + 1), list(known), [cost[name] for cost in known.values()]) for name in AXES
        }

    def of(self, k: int) -> np.ndarray:
        return np.array(
            [
                [best_of(one.values[search.rule], one.labels, min(k, len(one.labels))) for one in search.candidates]
                for search in self.group.values()
            ]
        )

    def at_cost(self, name: str, cost: float) -> np.ndarray | None:
        """Its accuracy at that cost, between two numbers of candidates, of at least one; None beyond its largest."""
        if cost > self.costs[name][-1]:
            return None
        number = float(np.interp(cost, self.costs[name][1:], range(1, ALL + 1)))
        low = int(number)
        return (low + 1 - number) * self.at[low] + (number - low) * self.at[min(low + 1, ALL)]


# ---------------------------------------------------------------- tables and figure


def read_groups(run: Path, policy: str) -> dict[tuple[str, int], Group]:
    found: dict[tuple[str, int], Group] = {}
    dev = [path for path in sorted(run.glob("dev_*.json")) if not path.stem.endswith("_run")]
    rules = {path.stem.removeprefix("dev_"): dev_rule(path) for path in dev}
    for method in METHODS:
        for number in KNOTS:
            for seed, rule in rules.items():
                path = run / policy / f"{method}-{number}-{seed}.json"
                if path.exists():
                    seconds = read_object(path.with_name(f"{path.stem}_run.json"))["accounts"]["seconds"]
                    search = Search(read_checked(path, parse_scored), seconds, rule)
                    found.setdefault((method, number), {})[seed] = search
    return found


def difference(group: Group, curve: BestOfN | None, name: str) -> str:
    """Over Best-of-N at the same cost, with the PRMs that both have."""
    if curve is None or list(group) != list(curve.group):
        return ""
    other = curve.at_cost(name, costs(group)[name])
    return "beyond 64" if other is None else two_way(right(group) - other, "+", 99)


def row(method: str, number: int, group: Group, curve: BestOfN | None) -> list[str]:
    cost = costs(group)
    cells = [method, str(number), str(len(group)), two_way(right(group))]
    cells += [f"{cost[name]:,.0f}" for name in ("policy_tokens", "prm_tokens", "prm_tokens_anew")]
    cells += [f"{cost['pictures']:.1f}", f"{cost['seconds']:.2f}"]
    cells += ["", ""] if method == "best_of_n" else [difference(group, curve, n) for n in ("policy_tokens", "total")]
    return cells


def baselines(group: Group) -> list[str]:
    """What needs no PRM, or uses it in another way, on the candidates of Best-of-64."""
    names = ("random", "majority", "likelihood", "weighted_vote", "pass")
    rows = []
    columns = {k: [accuracy_columns(search.candidates, k) for search in group.values()] for k in NUMBERS}
    for name in names:
        if all(name in found for found in columns[ALL]):
            rows.append([name, *(two_way(np.array([found[name] for found in columns[k]])) for k in NUMBERS)])
    return [*markdown_table(["rule", *(f"N = {number}" for number in NUMBERS)], rows), ""]


def table(groups: dict[tuple[str, int], Group], curve: BestOfN | None) -> list[str]:
    head = ["method", "N", "PRMs", "accuracy", "policy tokens", "PRM tokens", "PRM tokens, each text anew", "pictures",
            "s a problem", "over Best-of-N, same policy tokens", "same tokens of both"]  # fmt: skip
    rows = [row(method, number, group, curve) for (method, number), group in groups.items() if number in NUMBERS]
    return [*markdown_table(head, rows), ""]


def curve_of(groups: dict[tuple[str, int], Group]) -> BestOfN | None:
    found = {number: group for (method, number), group in groups.items() if method == "best_of_n"}
    return BestOfN(found) if {1, ALL} <= set(found) else None


def draw_method(axes: Any, groups: dict[tuple[str, int], Group], number: int, account: str) -> None:
    """A method's points with their intervals, in the order of its N."""
    found = sorted((n, group) for (name, n), group in groups.items() if name == METHODS[number])
    if not found:
        return
    x, y = [costs(group)[account] for _, group in found], [100 * right(group).mean() for _, group in found]
    low, high = zip(*(100 * bounds(right(group)) for _, group in found), strict=True)
    axes.plot(x, y, "o-", ms=4, color=f"C{number}", label=METHODS[number])
    axes.vlines(x, low, high, color=f"C{number}", alpha=0.35)


def draw(parts: Sequence[tuple[str, dict[tuple[str, int], Group], BestOfN | None]], path: Path) -> None:
    """A row for each policy, a panel for each account."""
    figure = Figure(figsize=(16, 4 * len(parts)), dpi=110, layout="constrained")
    panels = figure.subplots(len(parts), len(AXES), squeeze=False)
    for (title, groups, curve), line in zip(parts, panels, strict=True):
        for axes, (account, what) in zip(line, AXES.items(), strict=True):
            if curve:
                accuracy = [100 * at.mean() for at in curve.at[1:]]
                axes.plot(curve.costs[account][1:], accuracy, color="black", label="best_of_n")
            for number in range(1, len(METHODS)):
                draw_method(axes, groups, number, account)
            axes.set(xscale="log", xlabel=what, ylabel="accuracy, %")
            axes.xaxis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:g}", minor_formatter="")
            axes.grid(alpha=0.25)
        line[0].set_title(title, loc="left")
        line[0].legend(fontsize=7)
    figure.savefig(path)


def report(run: Path) -> str:
    lines, parts = [], []
    for policy, title in POLICIES.items():
        groups = read_groups(run, policy)
        if groups:
            curve = curve_of(groups)
            first = next(iter(groups.values()))
            rules = ", ".join(search.rule for search in max(groups.values(), key=len).values())
            count = len(next(iter(first.values())).records)
            lines += [
                f"## {title}",
                "",
                f"{count} problems; rules fixed on dev: {rules}",
                "",
            ]
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
