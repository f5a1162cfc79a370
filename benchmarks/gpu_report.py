"""Results of gpu.sh's parts -> results.json and results.md, after every part.

    python benchmarks/gpu_report.py --output_dir runs/gpu --part packing \\
        --exit_code 0 --seconds 31 --planned 40

A part's own result is <part>.json; one without it is named with the last line
of its log.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

from mm_prm import cli
from mm_prm.files import read_json, write_atomic, write_json
from mm_prm.statistics import markdown_table


def machine() -> str:
    """The GPU's name, or that there is none, and the Python."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        found = []
    return f"{found[0] if found else 'no GPU'}; Python {platform.python_version()}"


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table; the columns are the fields of all rows, in order of appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return markdown_table(names, ([shown(row.get(name)) for name in names] for row in rows))


def tables(result: Any) -> list[str]:
    """A check holds rows; a benchmark rows for each dtype, or an object with them."""
    if "rows" in result:
        rows = result["rows"]
        if isinstance(rows, dict):  # scoring: by way
            rows = [{"way": name, **row} for name, row in rows.items()]
        rest = [f"{name}: {shown(result[name])}" for name in result if name not in ("rows", "ok")]
        return [*table(rows), "", *rest]
    return [line for name in result for line in (f"{name}:", "", *tables(rows_of(result[name])), "")]


def rows_of(value: Any) -> dict[str, Any]:
    return {"rows": value} if isinstance(value, list) else value


def markdown(results: dict[str, Any]) -> str:
    lines = ["# GPU results", "", results["machine"], ""]
    summary = [
        {name: part[name] for name in ("seconds", "planned", "outcome")} | {"part": part_name}
        for part_name, part in results["parts"].items()
    ]
    lines += table([{"part": row.pop("part"), **row} for row in summary])
    for name, part in results["parts"].items():
        lines += ["", f"## {name}", "", *(tables(part["result"]) if part["result"] else [part["outcome"]])]
    return "\n".join(lines) + "\n"


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of gpu.sh")
    parser.add_argument("--part", required=True, help="the part that has just ended")
    parser.add_argument("--exit_code", type=int, required=True, help="how it ended; 124: cut off")
    parser.add_argument("--seconds", type=int, required=True, help="how long it took")
    parser.add_argument("--planned", type=int, required=True, help="how long it was meant to take")
    args = parser.parse_args()
    whole, own = args.output_dir / "results.json", args.output_dir / f"{args.part}.json"
    results = read_json(whole) if whole.exists() else {"parts": {}}
    outcome = "done" if args.exit_code == 0 else "cut off" if args.exit_code in (124, 137) else "failed"
    if args.exit_code:
        outcome += f": {last_line(args.output_dir / f'{args.part}.log')}"
    results["machine"] = machine()
    results["parts"][args.part] = {
        "seconds": args.seconds,
        "planned": args.planned,
        "outcome": outcome,
        "result": read_json(own) if own.exists() else None,
    }
    write_json(whole, results)
    write_atomic(args.output_dir / "results.md", markdown(results))


if __name__ == "__main__":
    cli.run(main)
