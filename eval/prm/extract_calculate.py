"""Turn scored rollouts into Best-of-N accuracies beside every baseline.

    python eval/prm/extract_calculate.py --input_file scored.json \\
        --select_on dev_scored_score.json

Every accuracy has its bootstrap interval. Writes <scored>_score.json, the same
as a Markdown table (.md) and the accuracy against N as a figure (.png). The
rules that choose a candidate, and what happens on ties, are in
mm_prm/selection.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mm_prm import cli
from mm_prm.files import read_json, replacing, write_atomic, write_json
from mm_prm.records import parse_scored, read_checked
from mm_prm.selection import AGGREGATIONS, HEADLINE, Candidates, accuracy_columns, grid, step_scores
from mm_prm.statistics import cluster_draws, interval, within_correlation

CLUSTER = "problem_index"  # MathVerse's versions of a problem are drawn together
BREAKDOWNS = ("subject", "level", "problem_version", "source")  # fields of a record that name a group
BASELINES = ("random", "majority")
Draws = Callable[[np.ndarray], np.ndarray]


def calculate(records: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The score file: every rule with accuracy (0..1), 95 % interval over problems and paired differences."""
    problems = [Candidates.of(record) for record in records]
    size = max(len(problem.labels) for problem in problems)
    at = {k: accuracy_columns(problems, k) for k in grid(size)}
    columns = at[size]
    draws = cluster_draws([cluster_of(number, record) for number, record in enumerate(records)], seed)
    result: dict[str, Any] = {"num_problems": len(records), "num_candidates": size, "num_clusters": draws.clusters}
    result["num_undecided"] = sum(sum(record.get("undecided") or ()) for record in records)
    result["left_out"] = left_out(records)
    for name, values in columns.items():
        entry = {"accuracy": float(values.mean()), "ci95": interval(draws.means(values))}
        for base in BASELINES:
            if base in columns and name not in ("random", base):
                difference = values - columns[base]
                entry[f"minus_{base}"] = {
                    "mean": float(difference.mean()),
                    "ci95": interval(draws.means(difference)),
                }
        if name not in ("random", "pass"):
            entry["gap_closed"] = gap_closed(values, columns["random"], columns["pass"], draws.means)
        if name in AGGREGATIONS:
            entry["length_correlation"] = length_correlation(problems, records, name)
        result[shown(name, size)] = entry
    result["step_scores"] = step_scores(records)
    result["by_k"] = {str(k): {name: float(values.mean()) for name, values in at[k].items()} for k in at}
    result["by_k_ci95"] = {str(k): {name: interval(draws.means(values)) for name, values in at[k].items()} for k in at}
    result["groups"] = breakdown(records, columns)
    result["problems"] = [record["id"] for record in records]
    return result


def cluster_of(number: int, record: dict[str, Any]) -> tuple[str, Any]:
    return ("row", number) if record.get(CLUSTER) is None else (CLUSTER, str(record[CLUSTER]))


def left_out(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line for the rules that not all records allow."""
    lines = []
    for field, names in (("answers", "majority and weighted_vote"), ("logprobs", "likelihood")):
        if missing := sum(record.get(field) is None for record in records):
            lines.append(f"without {names}: {missing} of {len(records)} records have no {field}")
    return lines


def shown(name: str, size: int) -> str:
    return f"pass@{size}" if name == "pass" else name


def gap_closed(values: np.ndarray, random: np.ndarray, top: np.ndarray, means: Draws) -> dict[str, Any]:
    """(rule - random) / (pass@N - random): what part of all that selection could win was won; null without a gap."""
    gap, gaps = float((top - random).mean()), means(top - random)
    if gap <= 0:
        return {"mean": None, "ci95": None}
    shares = means(values - random)[gaps > 0] / gaps[gaps > 0]
    return {"mean": float((values - random).mean()) / gap, "ci95": interval(shares)}


def length_correlation(problems: Sequence[Candidates], records: Sequence[dict[str, Any]], name: str) -> float | None:
    """Rank correlation of a candidate's value with its number of steps, within problems; null where nothing varies."""
    lengths = [[len(steps) for steps in record["solutions_splits"]] for record in records]
    return within_correlation([problem.values[name] for problem in problems], lengths)


def breakdown(records: Sequence[dict[str, Any]], columns: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Accuracies by each field of BREAKDOWNS that records have, and by how many of a problem's candidates are right."""
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, record in enumerate(records):
        for name in BREAKDOWNS:
            if record.get(name) not in (None, ""):
                groups[name][str(record[name])].append(number)
        groups["share_right"][share_bin(columns["random"][number])].append(number)
    return {
        field: {
            value: {"num_problems": len(members)}
            | {name: float(values[members].mean()) for name, values in columns.items()}
            for value, members in sorted(by_value.items(), key=lambda item: natural(item[0]))
        }
        for field, by_value in groups.items()
    }


def share_bin(share: float) -> str:
    """Difficulty for this policy: the share of right candidates."""
    if share in (0, 1):
        return f"{share:.0%}"
    return next(
        name for top, name in ((25, "1-25%"), (50, "26-50%"), (75, "51-75%"), (100, "76-99%")) if share * 100 <= top
    )


def natural(name: str) -> list[Any]:
    """Sort key by which 26-50% comes before 100%."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def select(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """The aggregation that was best in another score file (a dev split), with its result in this one."""
    other = read_json(path)
    try:
        name = max(AGGREGATIONS, key=lambda name: float(other[name]["accuracy"]))
        shared = len(set(other.get("problems", [])) & set(result["problems"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise cli.BadInput(f"{path}: not a score file") from None
    return {"aggregation": name, "selected_on": path.name, "shared_problems": shared, **result[name]}


# ---------------------------------------------------------------- table and figure


def rules(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of a score file that are ways to choose; the one fixed elsewhere last, under a name that says so."""
    found = {name: entry for name, entry in result.items() if isinstance(entry, dict) and "accuracy" in entry}
    if chosen := found.pop("selected", None):
        warning = f" ({chosen['shared_problems']} of these problems are in it)" if chosen["shared_problems"] else ""
        found[f"fixed on {chosen['selected_on']}{warning}: {chosen['aggregation']}"] = chosen
    return found


def percent(entry: dict[str, Any] | None, key: str, signed: bool = False) -> str:
    """`43.2 [40.1, 46.0]`, or nothing for what is not there."""
    if not entry or entry[key] is None:
        return ""
    low, high = (100 * bound for bound in entry["ci95"])
    return f"{100 * entry[key]:{'+' if signed else ''}.1f} [{low:.1f}, {high:.1f}]"


def title(result: dict[str, Any]) -> str:
    return f"{result['num_problems']} problems, up to {result['num_candidates']} candidates; in %, [95 % interval]"


def cells(result: dict[str, Any]) -> list[list[str]]:
    table = [["rule", "accuracy", "over random", "over majority", "gap closed"]]
    for name, entry in rules(result).items():
        gains = [percent(entry.get(f"minus_{base}"), "mean", signed=True) for base in BASELINES]
        table.append([name, percent(entry, "accuracy"), *gains, percent(entry.get("gap_closed"), "mean")])
    return table


def about_steps(result: dict[str, Any]) -> str:
    steps = result["step_scores"]
    if steps["auroc"] is None:
        return f"{steps['num_steps']} step scores"
    names = (("AUROC", "auroc"), ("ECE", "ece"), ("Brier", "brier"))
    shares = ", ".join(f"{label} {steps[name]:.3f}" for label, name in names)
    return f"{steps['num_steps']} step scores against outcome: {shares}"


def notes(result: dict[str, Any]) -> list[str]:
    """The lines below the table."""
    undecided = result["num_undecided"]
    said = f"{undecided} candidates undecided: the judge gave no verdict on their answers, they count as wrong"
    return [about_steps(result), *([said] if undecided else []), *result["left_out"]]


def screen(result: dict[str, Any]) -> str:
    rows = cells(result)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title(result), *lines, *notes(result)])


def markdown(result: dict[str, Any]) -> str:
    head, *rows = ["| " + " | ".join(row) + " |" for row in cells(result)]
    parts = [f"{title(result)}\n", head, "|---" * len(cells(result)[0]) + "|", *rows]
    parts += ["", *notes(result)]
    prm = result.get("selected", {}).get("aggregation", HEADLINE)
    for field, by_value in result["groups"].items():
        names = [name for name in ("random", "majority", "weighted_vote", prm, "pass") if name in result["by_k"]["1"]]
        parts += [f"\n| {field} | problems | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
        for value, entry in by_value.items():
            accuracies = " | ".join(f"{100 * entry[name]:.1f}" for name in names)
            value = value.replace("|", "\\|")
            parts.append(f"| {value} | {entry['num_problems']} | {accuracies} |")
    return "\n".join(parts) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy against the number of candidates, bands: 95 % intervals."""
    from matplotlib.figure import Figure

    prm = result.get("selected", {}).get("aggregation", HEADLINE)
    figure = Figure(figsize=(6.4, 4.2), dpi=150)
    axes = figure.subplots()
    sizes = [int(k) for k in result["by_k"]]
    for name, label, color, style in (
        ("pass", "pass@N (upper bound)", "#999999", ":"),
        (prm, f"PRM: {prm}", "#c0392b", "-"),
        ("weighted_vote", "PRM-weighted vote", "#e59866", "-"),
        ("majority", "majority vote", "#2471a3", "--"),
        ("likelihood", "likelihood rerank", "#7d3c98", "--"),
        ("random", "random", "#555555", "--"),
    ):
        if name not in result["by_k"]["1"]:
            continue
        middle = [100 * result["by_k"][str(k)][name] for k in sizes]
        low, high = zip(*(result["by_k_ci95"][str(k)][name] for k in sizes), strict=True)
        axes.plot(sizes, middle, style, color=color, label=label, marker="o", markersize=3)
        axes.fill_between(sizes, 100 * np.array(low), 100 * np.array(high), color=color, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(k) for k in sizes])
    axes.set(xlabel="candidates N", ylabel="accuracy, %", ylim=(0, 102))
    axes.set_title(f"Best-of-N on {result['num_problems']} problems", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="best")
    figure.tight_layout()
    with replacing(path) as file:
        figure.savefig(file, format="png")


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
    output = args.output_file or args.input_file.with_name(f"{args.input_file.stem}_score.json")
    if output.suffix != ".json":
        parser.error(f"--output_file {output}: must end in .json")
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(result, output.with_suffix(".png"))
    write_atomic(output.with_suffix(".md"), markdown(result))
    write_json(output, result)
    print(screen(result))
    print(f"more: {output}, and the same as .md and .png")


if __name__ == "__main__":
    cli.run(main)
