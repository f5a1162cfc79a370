"""A PRM's scored candidates -> a few kilobytes for the tables of labels.sh.

    python examples/desk/labels_measure.py scored.json measured.json

The rule of Best-of-16 and the threshold of a wrong step are the best ones on
dev. Written: both, the AUROC of steps, and by test problem the accuracy of
every rule (best_of_16: of the one chosen) and, of its solutions, [without a
wrong step and judged so, without, with a wrong step and it found, with].
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "eval/prm"))
from step_errors import METRICS, best_threshold, count, parse_steps, units_of

from mm_prm import cli
from mm_prm.files import write_json
from mm_prm.records import read_checked
from mm_prm.selection import AGGREGATIONS, Candidates, accuracy_columns
from mm_prm.statistics import auroc

CANDIDATES = 16
METRIC = METRICS["processbench"]
WITHOUT_PRM = ("random", "majority", "likelihood", "pass")


@dataclass
class Scored:
    """One trained PRM's scores of the dev and test candidates."""

    dev: list[dict[str, Any]]
    test: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Scored:
        records = read_checked(path, parse_steps)
        return cls(*([record for record in records if record["part"] == part] for part in ("dev", "test")))

    @cached_property
    def rule(self) -> str:
        columns = columns_of(self.dev)
        return max(AGGREGATIONS, key=lambda name: columns[name].mean())

    @cached_property
    def threshold(self) -> float:
        return best_threshold([np.concatenate([units_of(record, METRIC.units) for record in self.dev])], METRIC)[
            "threshold"
        ]

    @cached_property
    def found(self) -> np.ndarray:
        """[test problems, 4]: solutions without a wrong step judged so, all of these; the same of the others."""
        return np.stack([count(units_of(r, METRIC.units), [self.threshold])[0] for r in self.test])

    @cached_property
    def step_auroc(self) -> float:
        """Of right and wrong steps, up to the first wrong one."""
        pairs = [pair for record in self.test for pair in until_first_error(record)]
        scores, labels = np.array(pairs, dtype=np.float64).T
        return auroc(scores, labels > 0.5) or float("nan")

    def measured(self) -> dict[str, Any]:
        columns = columns_of(self.test)
        kept = {"best_of_16": columns[self.rule], "weighted_vote": columns["weighted_vote"]}
        kept |= {name: columns[name] for name in WITHOUT_PRM if name in columns}
        return {
            "rule": self.rule,
            "threshold": self.threshold,
            "auroc": self.step_auroc,
            "accuracy": {name: [round(float(value), 6) for value in column] for name, column in kept.items()},
            "found": self.found.tolist(),
        }


def columns_of(records: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return accuracy_columns([Candidates.of(record) for record in records], CANDIDATES)


def until_first_error(record: dict[str, Any]) -> list[tuple[float, int]]:
    """(score, right?) of the steps that are right or the first wrong one of their solution."""
    pairs: list[tuple[float, int]] = []
    for scores, labels in zip(record["prm_scores"], record["step_labels"], strict=True):
        stop = labels.index(0) + 1 if 0 in labels else len(labels)
        pairs += zip(scores[:stop], labels[:stop], strict=True)
    return pairs


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("scored", type=Path)
    parser.add_argument("measured", type=Path)
    args = parser.parse_args()
    write_json(args.measured, Scored.read(args.scored).measured())


if __name__ == "__main__":
    cli.run(main)
