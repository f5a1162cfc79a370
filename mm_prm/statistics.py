"""Small statistics shared by everything that reports numbers: bootstraps over problems, AUROC, calibration."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BOOTSTRAPS, BINS = 2000, 15


@dataclass
class ClusterDraws:
    """Bootstrap draws of whole clusters. member: cluster of each value, [values]; times: how often each cluster was
    drawn, [draws, clusters]."""

    member: np.ndarray
    times: np.ndarray

    @property
    def clusters(self) -> int:
        return self.times.shape[1]

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of the values in every draw. values: [values]; returns [draws]."""
        return (self.times @ np.bincount(self.member, values, self.clusters)) / self.sizes

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of values in every draw: [draws]."""
        return self.times @ np.bincount(self.member, minlength=self.clusters)


def cluster_draws(clusters: Sequence[Hashable], seed: int) -> ClusterDraws:
    """Seeded draws with replacement of as many clusters as there are; clusters: the cluster of each value."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    generator, count = np.random.default_rng(seed), len(numbers)
    times = generator.multinomial(count, np.full(count, 1 / count), size=BOOTSTRAPS)
    return ClusterDraws(np.array([numbers[cluster] for cluster in clusters]), times.astype(np.float64))


def interval(draws: np.ndarray, percent: float = 95) -> list[float]:
    """Percentile interval, by default of 95 %."""
    edge = (100 - percent) / 2
    return np.percentile(draws, [edge, 100 - edge]).tolist()


def two_way_times(seeds: int, problems: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each seed and each problem was drawn: [draws, seeds], [draws, problems]."""
    return cluster_draws(range(seeds), 0).times, cluster_draws(range(problems), 1).times


def two_way_means(values: np.ndarray) -> np.ndarray:
    """Bootstrap means over seeds and problems. values: [seeds, problems]; returns [draws]."""
    seeds, problems = two_way_times(*values.shape)
    return ((seeds @ values) * problems).sum(1) / values.size


def in_percent(value: float, draws: np.ndarray, sign: str = "", percent: float = 95) -> str:
    """`51.3 [45.7, 57.0]`; sign "+" also for numbers above 0."""
    low, high = interval(draws, percent)
    return f"{100 * value:{sign}.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def two_way(values: np.ndarray, sign: str = "", percent: float = 95) -> str:
    """Mean and interval over seeds and problems. values: [seeds, problems]."""
    return in_percent(values.mean(), two_way_means(values), sign, percent)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, `count` of `total` (Wilson's score interval); it says something for 0 of 5 as well."""
    z, share = 1.959964, count / total
    middle, scale = share + z**2 / (2 * total), 1 + z**2 / total
    half = z * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values share the mean of theirs."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size - 1) / 2)[group]


def auroc(scores: np.ndarray, right: np.ndarray) -> float | None:
    """Chance that a right entry scores above a wrong one, ties half; None when a class is empty. right: bool."""
    yes, no = int(right.sum()), int((~right).sum())
    if not yes or not no:
        return None
    return float((ranks(scores)[right].sum() - yes * (yes + 1) / 2) / (yes * no))


def brier(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance of probability and outcome."""
    return float(((scores - labels) ** 2).mean())


def calibration_error(scores: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins: |mean score - share right|, weighted by the bins' sizes."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, scores - labels, BINS)).sum() / len(scores))


def within_correlation(values: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float | None:
    """Rank correlation of two numbers per candidate within problems: ranks minus the problem's mean rank, then
    Pearson over all; None when one of them never varies."""
    centred = [
        np.concatenate([ranks(np.asarray(row, dtype=np.float64)) - (len(row) + 1) / 2 for row in rows])
        for rows in (values, others)
    ]
    spread = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / spread) if spread else None
