"""A PRM that reads texts as they grow: of every problem it keeps the tree of what it has read.

A new step costs its own tokens; pictures and question are read once for a problem. The scores are those of
`Prm.score` on the whole text. Requests of many problems that wait at the same time share a forward pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided.accounts import Accounts
from guided.memory import Memory, spans
from guided.methods import Steps, StepScore
from mm_prm.cli import Fault, first_line
from mm_prm.packing import Segment
from mm_prm.prm import Prm
from mm_prm.prm_format import prm_text, process_text
from mm_prm.prm_model import concentration, image_tiles, yes_no_ids
from mm_prm.records import Problem


@dataclass
class Path:
    """A text that was read: its tokens, up to its last marker, their places, and where in it the markers stand."""

    ids: np.ndarray
    places: np.ndarray
    markers: list[int]


@dataclass(eq=False)
class Reading:
    """What the PRM has read of one problem. paths: by their steps; scores: by the place of the marker; asked: what the
    last request was for, with its beginnings; texts: all that it was ever asked for."""

    problem: Problem
    accounts: Accounts
    paths: dict[Steps, Path] = field(default_factory=dict)
    scores: dict[int, StepScore] = field(default_factory=dict)
    image_tokens: list[int] | None = None
    asked: set[Steps] = field(default_factory=set)
    texts: set[Steps] = field(default_factory=set)

    def nearest(self, steps: Steps, ids: np.ndarray) -> tuple[int, Path | None]:
        """A path that begins as these tokens do, and for how many of them: that of the longest known beginning, or the
        last one that was read."""
        known = (self.paths.get(steps[:length]) for length in range(len(steps) - 1, 0, -1))
        found = [next((path for path in known if path), None), next(reversed(self.paths.values()), None)]
        lengths = [(common(path.ids, ids), path) for path in found if path]
        return max(lengths, key=lambda pair: pair[0], default=(0, None))

    def scores_of(self, steps: Steps) -> list[StepScore]:
        if not steps:
            return []
        path = self.paths[steps]
        return [self.scores[int(path.places[marker])] for marker in path.markers]


def common(one: np.ndarray, other: np.ndarray) -> int:
    """Number of leading entries that are equal."""
    shortest = min(len(one), len(other))
    different = np.flatnonzero(one[:shortest] != other[:shortest])
    return int(different[0]) if len(different) else shortest


@dataclass
class Row:
    """The new tokens of one forward pass. marks: whose marker stands at each of the columns, and its place; bills:
    whom the pass costs how many tokens and pictures."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    marks: list[tuple[Reading, int]] = field(default_factory=list)
    tiles: list[Tensor] = field(default_factory=list)
    bills: list[tuple[Accounts, int, int]] = field(default_factory=list)


@dataclass(eq=False)
class Request:
    reading: Reading
    candidates: list[Steps]
    reply: asyncio.Future[list[list[StepScore]]]
    scores: list[list[StepScore]] | None = None
    error: Exception | None = None

    def settle(self) -> None:
        """Hand over what came of it, unless nobody waits for it any more."""
        if self.reply.done():
            return
        if self.error:
            self.reply.set_exception(self.error)
        else:
            self.reply.set_result(self.scores or [])


class GrowingPrm:
    """limit: tokens that are kept; beyond it what was not asked for last, then whole problems, the one that was asked
    for longest ago first, are dropped and read anew when they come up."""

    def __init__(self, prm: Prm, limit: int):
        self.prm, self.limit, self.memory = prm, limit, Memory(limit)
        self.tells_count = getattr(prm.model.config, "label_loss", "soft") == "beta_binomial"
        self.readings: dict[Reading, None] = {}  # the one that was asked for last, last
        self.finished: list[Reading] = []
        self.waiting: list[Request] = []
        self.worker: asyncio.Task[None] | None = None

    def open(self, problem: Problem, accounts: Accounts) -> Reading:
        return Reading(problem, accounts)

    def forget(self, reading: Reading) -> None:
        """The problem is over: the next pass makes room."""
        self.finished.append(reading)

    async def close(self) -> None:
        """As a server's; there is nothing to close."""

    async def score(self, reading: Reading, candidates: Sequence[Steps]) -> list[list[StepScore]]:
        """Every step of every candidate; a candidate without steps has no scores. Raises Fault."""
        request = Request(reading, list(candidates), asyncio.get_running_loop().create_future())
        self.waiting.append(request)
        if self.worker is None or self.worker.done():
            self.worker = asyncio.ensure_future(self.work())
        return await request.reply

    async def work(self) -> None:
        """All that wait share a pass, while there are such; a pass is not cancelled with a request."""
        while batch := [request for request in self.waiting if not request.reply.done()]:
            self.waiting = []
            await asyncio.to_thread(self.answer, batch)
            for request in batch:
                request.settle()

    def answer(self, requests: Sequence[Request]) -> None:
        """Scores, or an error, for each. What fails together is tried one by one: the fault is one request's."""
        try:
            self.read(requests)
        except Exception as error:  # a picture that went away, memory that was too small
            for request in requests:
                self.drop(request.reading)  # how far the pass came is not known
            self.memory.trim()
            for request in requests:
                if len(requests) > 1:
                    self.answer([request])
                else:
                    request.error = Fault(f"{request.reading.problem.id}: the PRM failed ({first_line(error)})")

    # ------------------------------------------------------------ the pass

    def read(self, requests: Sequence[Request]) -> None:
        """Read what is new, in as many passes as batch_tokens allow."""
        while self.finished:
            self.drop(self.finished.pop())
        row, done = Row(), list[Request]()
        for request in requests:
            self.touch(request)
            for steps in filter(None, request.candidates):
                self.add(row, request.reading, steps)
                if len(row.ids) >= self.prm.batch_tokens:
                    self.forward(row)
                    row = Row()
            done.append(request)
            if not row.ids or self.memory.count > self.limit or request is requests[-1]:
                self.forward(row)
                row = Row()
                self.finish(done)

    def touch(self, request: Request) -> None:
        reading = request.reading
        self.readings.pop(reading, None)
        self.readings[reading] = None
        reading.asked = {steps[:length] for steps in request.candidates for length in range(1, len(steps) + 1)}

    def finish(self, requests: list[Request]) -> None:
        """Note their scores; then what was read for them may be dropped."""
        for request in requests:
            request.scores = [request.reading.scores_of(steps) for steps in request.candidates]
        requests.clear()
        self.shrink()

    def add(self, row: Row, reading: Reading, steps: Steps) -> None:
        """The tokens of a text that nobody has read, into the row."""
        path = reading.paths.get(steps)
        if path is None:
            path = self.place(row, reading, steps)
            for number, marker in enumerate(path.markers, 1):
                part = Path(path.ids[: marker + 1], path.places[: marker + 1], path.markers[:number])
                reading.paths.setdefault(steps[:number], part)
        if steps not in reading.texts:
            reading.accounts.prm_tokens_anew += len(path.ids)
            reading.texts.add(steps)

    def place(self, row: Row, reading: Reading, steps: Steps) -> Path:
        path = self.encoded(row, reading, steps)
        known, nearest = reading.nearest(steps, path.ids)
        fresh = self.memory.take(len(path.ids) - known)
        before = nearest.places[:known] if nearest else fresh[:0]
        path.places = np.concatenate([before, fresh])
        start = len(row.ids)
        row.ids += path.ids[known:].tolist()
        row.positions += range(known, len(path.ids))
        row.places += fresh.tolist()
        if len(fresh):
            row.segments.append((start, len(row.ids), spans(path.places)))
        for marker in path.markers:
            if marker >= known:
                row.columns.append(start + marker - known)
                row.marks.append((reading, int(path.places[marker])))
        row.bills.append((reading.accounts, len(fresh), 0))
        return path

    def encoded(self, row: Row, reading: Reading, steps: Steps) -> Path:
        """Its tokens, without places yet; the problem's pictures go into the row with its first text."""
        problem, prm = reading.problem, self.prm
        if not reading.paths:
            tiles, reading.image_tokens = image_tiles(prm.processor, problem.images)
            row.tiles += [] if tiles is None else [tiles]
            row.bills.append((reading.accounts, 0, len(problem.images)))
        text = prm_text(problem.question, process_text(list(steps), prm.separator))
        sequence = prm.encoder.prm(text, reading.image_tokens or [], prm.closes_user)
        markers = sequence.marker_positions
        ids = np.array(sequence.input_ids[: markers[-1] + 1])
        return Path(ids, ids[:0], markers)

    @torch.no_grad()
    def forward(self, row: Row) -> None:
        if not row.ids:
            return
        prm, device = self.prm, self.prm.model.device
        prm.threads.adjust()
        self.memory.fresh = torch.tensor(row.places, device=device)
        logits = prm.model(
            input_ids=torch.tensor([row.ids], device=device),
            position_ids=torch.tensor([row.positions], device=device),
            subtree_end=None,
            columns=torch.tensor(row.columns, dtype=torch.long, device=device),
            pixel_values=torch.cat(row.tiles).to(device) if row.tiles else None,
            vocabulary=yes_no_ids(prm.processor.tokenizer).to(device),
            layout={"segments": row.segments, "memory": self.memory},
        )
        chances = logits.double().softmax(-1)[:, 0].tolist()
        counts = concentration(logits).exp().tolist() if self.tells_count else [None] * len(chances)
        for (reading, place), p, count in zip(row.marks, chances, counts, strict=True):
            reading.scores[place] = StepScore(p, count)
        for accounts, tokens, pictures in row.bills:
            accounts.prm_tokens += tokens
            accounts.pictures += pictures

    # ------------------------------------------------------------ what is kept

    def shrink(self) -> None:
        for reading in list(self.readings):
            if self.memory.count > self.limit:
                self.keep(reading, reading.asked)
        for reading in list(self.readings):
            if self.memory.count > self.limit:
                self.drop(reading)

    def drop(self, reading: Reading) -> None:
        self.keep(reading, set())
        self.readings.pop(reading, None)

    def keep(self, reading: Reading, steps: set[Steps]) -> None:
        """These paths alone."""
        before = places_of(reading)
        reading.paths = {known: path for known, path in reading.paths.items() if known in steps}
        dropped = np.setdiff1d(before, places_of(reading))
        self.memory.free(dropped)
        for place in dropped.tolist():
            reading.scores.pop(place, None)


def tokens_in(gib: float | None, model: Any) -> int:
    """How many tokens' keys and values take so much memory; by default half of what is free on the model's GPU, 4 GiB
    on a CPU."""
    if gib is None:
        gib = torch.cuda.mem_get_info(model.device)[0] / 2**31 if model.device.type == "cuda" else 4.0
    text = model.config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    values = 2 * text.num_hidden_layers * text.num_key_value_heads * head
    return int(gib * 2**30 / (values * model.dtype.itemsize))


def places_of(reading: Reading) -> np.ndarray:
    return np.unique(np.concatenate([path.places for path in reading.paths.values()] or [np.zeros(0, dtype=np.int64)]))
