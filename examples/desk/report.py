"""Turn the desk-scale study's score files into its table and its figure.

    python examples/desk/report.py --run_dir runs/desk

Reads score.json and score_edges.json; writes table.txt, accuracy_against_n.png
and report.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mm_prm import cli
from mm_prm.files import read_json, write_atomic

BASELINES = {"random": "random (mean of candidates)", "majority": "majority vote", "likelihood": "likelihood rerank"}


def cell(entry: dict[str, Any]) -> str:
    low, high = entry["ci95"]
    return f"{100 * entry['accuracy']:5.1f} [{100 * low:4.1f}, {100 * high:4.1f}]"


def rules(score: dict[str, Any]) -> list[str]:
    """Names of the PRM's selection rules in a score file: what is neither a baseline nor a bound."""
    names = [name for name, entry in score.items() if isinstance(entry, dict) and "accuracy" in entry]
    return [name for name in names if name not in BASELINES and name != "selected" and "@" not in name]


def make_table(ours: dict[str, Any], edges: dict[str, Any]) -> str:
    """Baselines once, then every rule for both kinds of labels; percent with 95 % intervals."""
    size = ours["num_candidates"]
    lines = [f"{ours['num_problems']} test problems, {size} candidates each; accuracy in %, [95 % interval]", ""]
    lines += [f"  {label:30s}{cell(ours[name])}" for name, label in BASELINES.items() if name in ours]
    lines += [f"  {f'pass@{size}':30s}{cell(ours[f'pass@{size}'])}", ""]
    lines.append(f"  {'PRM':30s}{'8 plain rollouts':22s}  {'edges of trees (the paper)'}")
    for name in rules(ours):
        lines.append(f"  {name:30s}{cell(ours[name]):22s}  {cell(edges[name])}")
    for title, score in (("8 plain rollouts", ours), ("edges of trees", edges)):
        chosen, gains = score["selected"], []
        for base in ("random", "majority"):
            low, high = chosen[f"minus_{base}"]["ci95"]
            gains.append(
                f"{100 * chosen[f'minus_{base}']['mean']:+.1f} [{100 * low:.1f}, {100 * high:.1f}] over {base}"
            )
        lines += ["", f"  {title}, aggregation fixed on dev: {chosen['aggregation']}: {cell(chosen).strip()};"]
        lines.append(f"    {', '.join(gains)}")
    return "\n".join(lines) + "\n"


def draw_curves(ours: dict[str, Any], edges: dict[str, Any], path: Path) -> None:
    """Accuracy against the number of candidates."""
    figure = Figure(figsize=(6.4, 4.2), dpi=150)
    axes = figure.subplots()
    sizes = [int(k) for k in ours["by_k"]]
    curves = [
        ("pass", ours, "pass@N (upper bound)", "#999999", ":"),
        (ours["selected"]["aggregation"], ours, "PRM, 8 plain rollouts", "#c0392b", "-"),
        (edges["selected"]["aggregation"], edges, "PRM, edges of trees (the paper)", "#e59866", "-"),
        ("likelihood", ours, "likelihood rerank", "#7d3c98", "--"),
        ("majority", ours, "majority vote", "#2471a3", "--"),
        ("random", ours, "random", "#555555", "--"),
    ]
    for name, score, label, color, style in curves:
        if name in score["by_k"]["1"]:
            label = f"{label}: {name}" if name in rules(ours) else label
            values = [100 * score["by_k"][str(k)][name] for k in sizes]
            axes.plot(sizes, values, style, color=color, label=label, marker="o", markersize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(k) for k in sizes])
    axes.set(xlabel="candidates N", ylabel="accuracy, %", ylim=(0, 102))
    axes.set_title(f"Best-of-N on {ours['num_problems']} unseen desk problems", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="upper left")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the study")
    args = parser.parse_args()
    run = args.run_dir
    ours, edges = read_json(run / "score.json"), read_json(run / "score_edges.json")
    table = make_table(ours, edges)
    draw_curves(ours, edges, run / "accuracy_against_n.png")
    write_atomic(run / "table.txt", table)
    figure = "![accuracy against N](accuracy_against_n.png)"
    write_atomic(
        run / "report.md", f"# The desk-scale study\n\n```\n{table}```\n\n{figure}\n\n[Three cases](cases/cases.md)\n"
    )


if __name__ == "__main__":
    cli.run(main)
