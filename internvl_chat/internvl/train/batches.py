"""Rows -> micro-batches: which rows go together, and the packed row of tokens, pictures and targets they become.

A PRM row's targets are its soft labels, one per labelled <prm>; an SFT row's are the reply's token ids.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from internvl.train.dataset import Row, by_problem
from mm_prm.packing import Packed
from mm_prm.prm_format import PLACEHOLDER, Encoded, Encoder, placeable
from mm_prm.prm_model import image_tiles, image_token_counts, row_tensors

IMAGE_COST = 6000  # what a picture costs, in characters of text: some 1,800 tokens


class MicroBatches(Sampler[list[int]]):
    """Positions of one process's rows, micro-batch after micro-batch, `accumulation` of them for every optimizer step.

    An optimizer step takes at most `batch_size` paths (rows) over all processes, the same number in every step to
    within one. With `pack`, paths of a problem go to the same micro-batch as far as `per_device` paths allow, and
    micro-batches are balanced by length, so that one holds about `per_device` paths. One may be empty when there are
    too few rows.
    """

    def __init__(
        self, rows: Sequence[Row], per_device: int, accumulation: int, processes: int, rank: int, pack: bool, seed: int
    ):
        self.groups = by_problem(rows) if pack else [[position] for position in range(len(rows))]
        self.problem = {path: number for number, group in enumerate(self.groups) for path in group}
        self.costs = [len(row.text) + IMAGE_COST * len(row.images) // (per_device if pack else 1) for row in rows]
        self.per_device, self.micro_batches = per_device, accumulation * processes
        self.steps = -(-len(rows) // (per_device * self.micro_batches))
        self.processes, self.rank, self.seed, self.epoch = processes, rank, seed, 0

    @property
    def batch_sampler(self) -> MicroBatches:
        # Trainer calls set_epoch on the batch sampler's own batch sampler: it expects accelerate's wrapper.
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.micro_batches // self.processes

    def __iter__(self) -> Iterator[list[int]]:
        generator = random.Random(f"{self.seed} {self.epoch}")
        order = [path for group in generator.sample(self.groups, len(self.groups)) for path in group]
        for step in range(self.steps):
            paths = order[len(order) * step // self.steps : len(order) * (step + 1) // self.steps]
            yield from self.spread(paths)[self.rank :: self.processes]

    def spread(self, paths: Sequence[int]) -> list[list[int]]:
        """One step's paths over its micro-batches: the longest piece first, each to the shortest micro-batch."""
        pieces: list[list[int]] = []
        for _, run in groupby(paths, key=self.problem.__getitem__):
            pieces += parts(list(run), self.per_device)
        while len(pieces) < min(self.micro_batches, len(paths)):
            pieces.sort(key=len)
            longest = pieces.pop()
            pieces += parts(longest, -(-len(longest) // 2))
        costs = [(sum(self.costs[path] for path in piece), piece) for piece in pieces]
        heap: list[tuple[int, list[int]]] = [(0, []) for _ in range(self.micro_batches)]
        for cost, piece in sorted(costs, reverse=True):
            total, micro_batch = heapq.heappop(heap)
            heapq.heappush(heap, (total + cost, micro_batch + piece))
        # Micro-batches of about the same length run side by side on the processes.
        return [micro_batch for _, micro_batch in sorted(heap, reverse=True)]


def parts(run: list[int], largest: int) -> list[list[int]]:
    """A list cut into pieces of at most `largest` entries whose sizes differ by at most one."""
    count = -(-len(run) // largest)
    return [run[len(run) * part // count : len(run) * (part + 1) // count] for part in range(count)]


class Collator:
    """Rows -> one packed row of tokens: what `position_logits` takes, and `targets`, one per wanted position; of a PRM
    also `counts`, the rollouts behind each of them, 1 where the row does not say it.

    With `pack`, rows that read the same pictures in the same places are one tree and their pictures are encoded once.
    Text beyond max_length tokens is cut off with its targets, which are counted in `dropped`. pixels: False for lengths
    alone.
    """

    def __init__(self, processor: Any, objective: str, max_length: int, pack: bool, pixels: bool = True):
        self.processor, self.objective, self.max_length, self.pack = processor, objective, max_length, pack
        self.pixels = pixels
        self.encoder = Encoder(processor.tokenizer, marker=objective == "prm")

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        packed, tiles, targets, dropped = Packed(), [], list[Any](), 0
        for images, members in self.groups(rows):
            if self.pixels:
                pixel_values, image_tokens = image_tiles(self.processor, images)
            else:
                pixel_values, image_tokens = None, image_token_counts(self.processor, images)
            encoded = [self.encode(row, image_tokens) for row in members]
            whole = sum(len(wanted) for _, wanted in encoded)
            encoded = [(self.cut(sequence), wanted) for sequence, wanted in encoded]
            encoded = [(sequence, wanted) for sequence, wanted in encoded if sequence.marker_positions]
            if encoded:
                packed.add([sequence for sequence, _ in encoded])
                tiles += [] if pixel_values is None else [pixel_values]
                kept = [w for sequence, wanted in encoded for w in wanted[: len(sequence.marker_positions)]]
                targets += kept
                whole -= len(kept)
            dropped += whole
        if not targets:
            packed = Packed([0], [0], [1])  # every process must take part in every step, with one token at least
        row = {**row_tensors(packed, tiles), "dropped": torch.tensor(dropped)}
        if self.objective == "sft":
            return row | {"targets": torch.tensor(targets, dtype=torch.long)}
        labels, counts = torch.tensor(targets, dtype=torch.float32).reshape(-1, 2).unbind(dim=1)
        return row | {"targets": labels, "counts": counts}

    def groups(self, rows: Sequence[Row]) -> list[tuple[list[str], list[Row]]]:
        if not self.pack:
            return [(row.images, [row]) for row in rows]
        together: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            # What stands before the last picture: where it differs, the rows share no picture's tokens.
            before = placeable(row.text, self.objective).rpartition(PLACEHOLDER)[0] if row.images else ""
            together.setdefault((before, *row.images), []).append(row)
        return [(members[0].images, members) for members in together.values()]

    def encode(self, row: Row, image_tokens: list[int]) -> tuple[Encoded, list[Any]]:
        """The row's sequence with the positions whose logits are trained, and their targets; a PRM's: label, count."""
        if self.objective == "sft":
            sequence = self.encoder.sft(row.text, str(row.target), image_tokens)
            # The logits that predict a token stand one position before it.
            sequence.marker_positions = list(range(sequence.target_start - 1, len(sequence.input_ids) - 1))
            return sequence, sequence.input_ids[sequence.target_start :]
        sequence = self.encoder.prm(row.text, image_tokens)
        # As many labels as markers, null or not; only a marker with a label is trained.
        counts = row.counts or [1] * len(row.target)
        marked = zip(sequence.marker_positions, row.target, counts, strict=True)
        labelled = [(at, label, count) for at, label, count in marked if label is not None]
        sequence.marker_positions = [at for at, _, _ in labelled]
        return sequence, [(label, count) for _, label, count in labelled]

    def cut(self, sequence: Encoded) -> Encoded:
        sequence.marker_positions = [at for at in sequence.marker_positions if at < self.max_length]
        return sequence
