"""How the stages hang together -> docs/stages.png, drawn from the table of stages in README.md.

    python docs/draw_stages.py

A column is a stage, a line is what passes between them: from who writes it
(full) to who reads it (open).
"""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from mm_prm import cli

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"\| (\w+) \| ([^|]+) \| `([^`]+)` \| ([^|]+) \| ([^|]+) \|")


@dataclass(frozen=True)
class Stage:
    number: str
    name: str
    command: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def script(self) -> str:
        return re.findall(r"[\w.-]+\.(?:py|sh)", self.command)[0]


def read_stages(readme: str) -> list[Stage]:
    """The rows of the table."""
    names = [row.groups() for row in ROW.finditer(readme)]
    return [Stage(*one[:3], *(tuple(cell.split(", ")) for cell in one[3:])) for one in names]


def things(stages: list[Stage]) -> list[str]:
    """What is read or written, in the order in which it comes up."""
    return list(dict.fromkeys(thing for stage in stages for thing in (*stage.reads, *stage.writes)))


def ends(stages: list[Stage], thing: str) -> list[tuple[int, bool]]:
    """(column, is it written there?) of everything that touches a thing."""
    read = [(at, False) for at, stage in enumerate(stages) if thing in stage.reads and thing not in stage.writes]
    return sorted(read + [(at, True) for at, stage in enumerate(stages) if thing in stage.writes])


def wrapped(script: str, width: int = 19) -> str:
    """In lines that end with an underscore."""
    return "\n".join(textwrap.wrap(script.replace("_", "_ "), width)).replace("_ ", "_")


def draw(stages: list[Stage]) -> Figure:
    rows = things(stages)
    figure = Figure(figsize=(1.15 * len(stages) + 1.2, 0.42 * len(rows) + 1.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for at, stage in enumerate(stages):
        axes.axvspan(at - 0.38, at + 0.38, color="#eef2f6", zorder=0)
        axes.text(at, -1.25, f"{stage.number}\n{stage.name}", ha="center", va="center", weight="bold", fontsize=9)
        axes.text(at, len(rows) - 0.2, wrapped(stage.script), ha="center", va="top", fontsize=5.5, family="monospace")
    for row, thing in enumerate(rows):
        found, colour = ends(stages, thing), f"C{row}"
        axes.plot([found[0][0], found[-1][0]], [row, row], color=colour, linewidth=1.6, zorder=1)
        for at, written in found:
            fill = colour if written else "white"
            axes.plot(at, row, "o", color=colour, markerfacecolor=fill, markersize=9, markeredgewidth=1.6, zorder=2)
        axes.text(-0.6, row, thing, ha="right", va="center", fontsize=9, color=colour)
    axes.set(xlim=(-2.2, len(stages) - 0.5), ylim=(len(rows) + 0.6, -1.8))
    axes.axis("off")
    return figure


def main() -> None:
    cli.Parser(__doc__).parse_args()
    stages = read_stages((ROOT / "README.md").read_text())
    path = ROOT / "docs/stages.png"
    draw(stages).savefig(path, metadata={"Description": json.dumps([vars(stage) for stage in stages])})
    print(f"{path}: {len(stages)} stages")


if __name__ == "__main__":
    cli.run(main)
