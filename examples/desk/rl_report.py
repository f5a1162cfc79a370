"""What a run of stage 7 showed: a line, and its curve as a figure.

    python examples/desk/rl_report.py --run_dir runs/desk_rl/cpgd --least 75

Prints `pass@1 A -> B %, mismatch M`, of the held-out problems before and after
training; the exit code is 1 when B is below --least. The figure, curve.png in
the run's folder, has accuracy and pass@1 against rollouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mm_prm import cli
from mm_prm.files import read_json, read_jsonl


def draw_curve(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy of the drawn answers and held-out pass@1, in %, against rollouts."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, label, style in (("accuracy", "drawn answers", "-"), ("pass_at_1", "held-out pass@1", "o-")):
        points = [(row["step"], 100 * row[name]) for row in rows if row.get(name) is not None]
        axes.plot(*zip(*points, strict=True), style, label=label)
    axes.set(xlabel="rollouts", ylabel="right, %", ylim=(0, 100))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--run_dir", type=Path, required=True, help="--output_dir of a finished run")
    parser.add_argument("--least", type=cli.non_negative, default=0.0, help="pass@1 in %% that it must have reached")
    args = parser.parse_args()
    results, rows = read_json(args.run_dir / "train_results.json"), read_jsonl(args.run_dir / "steps.jsonl")
    draw_curve(rows, args.run_dir / "curve.png")
    before, after = (100 * results[name] for name in ("pass_at_1_before", "pass_at_1"))
    print(f"pass@1 {before:.1f} -> {after:.1f} %, mismatch {results['mismatch']:.1e}", flush=True)
    if after < args.least:
        raise cli.Fault(f"pass@1 should have reached {args.least:g} %")


if __name__ == "__main__":
    cli.run(main)
