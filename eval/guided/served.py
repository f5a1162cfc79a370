"""A PRM behind a vLLM server (eval/prm/serve_prm.md): scores of texts as they grow, from its prefix cache."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from guided.accounts import Accounts
from guided.methods import Steps, StepScore
from mm_prm.packing import common_length
from mm_prm.prm_format import IMAGE_END, IMAGE_START, MARKER, PRM_TEXTS, Encoder, PrmText, prm_text, process_text
from mm_prm.prm_model import image_token_counts, yes_no_ids
from mm_prm.records import Problem
from mm_prm.servers import Garbled, ServerPool, image_part


class PrmServers(ServerPool):
    """Servers that take token ids and pictures."""

    path = "/../inference/v1/generate"

    def checked(self, reply: Any, n: int) -> dict[str, Any]:
        try:
            reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        except (KeyError, IndexError, TypeError):
            raise Garbled("the reply holds no log-probabilities: is --enable-scale-out on?") from None
        return reply


@dataclass(eq=False)
class ServedReading:
    """One problem. extra: image tokens beyond the one that stands for a picture; first: ids of the first text; scores:
    by the steps so far, those under way included; opened: its pictures are in the cache; texts: all asked for."""

    problem: Problem
    accounts: Accounts
    pictures: list[dict[str, Any]]
    extra: int
    first: list[int] = field(default_factory=list)
    scores: dict[Steps, asyncio.Task[StepScore]] = field(default_factory=dict)
    opened: asyncio.Lock = field(default_factory=asyncio.Lock)
    texts: set[Steps] = field(default_factory=set)


class ServedPrm:
    """As `GrowingPrm`: one request for each new step. text: what the PRM reads (PRM_TEXTS). What the server computes is
    not reported: prm_tokens is what its prefix cache cannot know yet. It says no counts: the log-probabilities do not
    hold them."""

    def __init__(self, servers: PrmServers, processor: Any, text: PrmText = PRM_TEXTS["training"]):
        self.servers, self.processor, self.encoder = servers, processor, Encoder(processor.tokenizer)
        self.yes, self.no = yes_no_ids(processor.tokenizer).tolist()
        self.separator, self.closes_user = text
        # The server puts these around a picture itself
        self.frame = {self.encoder.special[IMAGE_START], self.encoder.special[IMAGE_END]}

    def open(self, problem: Problem, accounts: Accounts) -> ServedReading:
        parts = [image_part(path)["image_url"]["url"] for path in problem.images]
        extra = sum(image_token_counts(self.processor, problem.images)) + len(problem.images)  # and its two marks
        return ServedReading(problem, accounts, [{"type": "image_url", "url": url} for url in parts], extra)

    def forget(self, reading: ServedReading) -> None:
        """What is still asked is asked for nobody; the rest the server's cache sees to."""
        for task in reading.scores.values():
            if not task.done():
                task.cancel()
            elif not task.cancelled():
                task.exception()  # seen

    async def close(self) -> None:
        await self.servers.close()

    async def score(self, reading: ServedReading, candidates: Sequence[Steps]) -> list[list[StepScore]]:
        """Every step of every candidate; a candidate without steps has no scores."""
        prefixes = [[steps[:length] for length in range(1, len(steps) + 1)] for steps in candidates]
        for steps, parts in zip(candidates, prefixes, strict=True):
            new = [part for part in parts if part not in reading.scores]
            ends = self.ends(reading.problem, steps) if steps else []
            if ends and steps not in reading.texts:
                reading.accounts.prm_tokens_anew += len(ends[-1]) + reading.extra
                reading.texts.add(steps)
            for part in new:
                ids = ends[len(part) - 1]
                before = len(ends[len(part) - 2]) if len(part) > 1 else common_length(reading.first, ids)
                reading.accounts.prm_tokens += len(ids) - before + (0 if reading.first else reading.extra)
                reading.first = reading.first or ids
                reading.scores[part] = asyncio.ensure_future(self.ask(reading, ids))
        return [[await reading.scores[part] for part in parts] for parts in prefixes]

    def ends(self, problem: Problem, steps: Steps) -> list[list[int]]:
        """The token ids up to each marker."""
        text = prm_text(problem.question, process_text(list(steps), self.separator))
        sequence = self.encoder.prm(text, [1] * len(problem.images), self.closes_user)
        ids = [token for token in sequence.input_ids if token not in self.frame]
        return [ids[: at + 1] for at, token in enumerate(ids) if token == self.encoder.special[MARKER]]

    async def ask(self, reading: ServedReading, ids: list[int]) -> StepScore:
        """One token back, of which the two log-probabilities count. The first request goes alone: the others then find
        pictures and question in the cache."""
        if not reading.accounts.pictures and reading.pictures:
            async with reading.opened:
                if not reading.accounts.pictures:
                    score = await self.post(reading, ids)
                    reading.accounts.pictures = len(reading.pictures)
                    return score
        return await self.post(reading, ids)

    async def post(self, reading: ServedReading, ids: list[int]) -> StepScore:
        both = [self.yes, self.no]
        sampling: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "logprobs": 2}
        sampling |= {"logprob_token_ids": both, "allowed_token_ids": both}
        reply = await self.servers.complete(
            int(reading.problem.key, 16), token_ids=ids, content_parts=reading.pictures, sampling_params=sampling
        )
        found = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        logprob = {entry["token_id"]: entry["logprob"] for entry in found}
        return StepScore((1 + math.tanh((logprob[self.yes] - logprob[self.no]) / 2)) / 2)
