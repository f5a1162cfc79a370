"""Keys and values of what a PRM has read, kept between its passes: a step costs its own tokens, not its prefix.

Every kept token has a place, whichever problem it belongs to. What a token sees are the places of its prefix.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

SMALLEST = 1024  # places


class Memory:
    """limit: places that are wanted at most; it has more only when that many are in use at once. fresh: [tokens],
    places of the tokens of the pass that is under way."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = np.zeros(0, dtype=bool)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # [1, key heads, places, width] each
        self.fresh: Tensor

    @property
    def count(self) -> int:
        """Places in use."""
        return int(self.used.sum())

    def take(self, count: int) -> np.ndarray:
        """Places for new tokens, ascending: [count]."""
        missing = count - (len(self.used) - self.count)
        if missing > 0:
            doubled = max(len(self.used), SMALLEST)
            more = max(missing, min(doubled, self.limit - len(self.used)))
            self.used = np.concatenate([self.used, np.zeros(more, dtype=bool)])
        places = np.flatnonzero(~self.used)[:count]
        self.used[places] = True
        return places

    def free(self, places: np.ndarray) -> None:
        self.used[places] = False

    def trim(self) -> None:
        """Give back what lies behind the last place in use: a pass that failed asked for more than there is."""
        size = int(np.flatnonzero(self.used)[-1]) + 1 if self.count else 0
        self.used = self.used[:size]
        self.layers = {
            layer: (key[:, :, :size].clone(), value[:, :, :size].clone()) for layer, (key, value) in self.layers.items()
        }

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep a pass's keys and values, [1, key heads, tokens, width]; returns all that this layer has."""
        kept = self.layers.get(layer)
        if kept is None or kept[0].shape[2] < len(self.used):
            kept = self.layers[layer] = (self.room_for(key, kept and kept[0]), self.room_for(value, kept and kept[1]))
        for whole, new in zip(kept, (key, value), strict=True):
            whole.index_copy_(2, self.fresh, new)
        return kept

    def room_for(self, new: Tensor, old: Tensor | None) -> Tensor:
        whole = new.new_zeros(*new.shape[:2], len(self.used), new.shape[3])
        if old is not None:
            whole[:, :, : old.shape[2]] = old
        return whole


def spans(places: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of the runs of neighbouring places, in their order."""
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(places, breaks)]
