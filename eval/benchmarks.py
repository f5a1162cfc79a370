"""How to read a benchmark's rows as problems.

Each entry of BENCHMARKS says only that; one loop (generate_rollouts.py) serves them all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mm_prm.records import Problem, read_seed


def read_seed_format(path: Path) -> list[Problem]:
    """Any seed-format JSON.

    {"id": "k12-17", "question": "Find x.", "correct_answer": "75", "image_path": "images/k12-17.png"}
    """
    return read_seed(path)[0]


BENCHMARKS: dict[str, Callable[[Path], list[Problem]]] = {"seed": read_seed_format}
