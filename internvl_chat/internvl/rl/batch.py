"""Which problems come next, which of their groups are kept, and what their answers weigh."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from internvl.rl.advantages import advantages
from internvl.rl.draw import Group
from internvl.rl.objectives import token_weights
from internvl.rl.rewards import Weights, in_format, reward
from mm_prm.cli import Fault
from mm_prm.records import Problem

MOST_REFILLS = 20  # batches drawn for one step, before the bounds are said to leave nothing


class Exhausted(Fault):
    """The bounds leave too few prompts for a step."""


@dataclass(frozen=True)
class Stream:
    """Problems without end: pass after pass, each in a seeded order of its own."""

    problems: Sequence[Problem]
    seed: int

    def __getitem__(self, position: int) -> Problem:
        passed, place = divmod(position, len(self.problems))
        return self.problems[order_of(self.seed, passed, len(self.problems))[place]]


@lru_cache(maxsize=2)
def order_of(seed: int, passed: int, count: int) -> list[int]:
    return random.Random(f"{seed} {passed}").sample(range(count), count)


@dataclass
class Batch:
    """A step's groups. position: of the stream, behind the last problem drawn; drawn, refused, filtered, surplus: how
    many prompts were drawn, and how many of them the server refused, the bounds left out, and the batch had no room
    for."""

    groups: list[Group]
    position: int
    drawn: int = 0
    refused: int = 0
    filtered: int = 0
    surplus: int = 0


# (problem, number of its draw) of several problems -> their groups, None where the server refuses the problem
Draw = Callable[[list[tuple[Problem, int]]], Awaitable[list[Group | None]]]


async def fill(draw: Draw, stream: Stream, position: int, size: int, bounds: tuple[float, float] | None) -> Batch:
    """Draw until `size` groups are kept: all, or those whose accuracy lies within the bounds, in the stream's order.

    With bounds a whole batch is drawn again each time and what is too much thrown away (MM-Eureka).
    """
    batch = Batch([], position)
    for _ in range(MOST_REFILLS):
        wanted = size if bounds else size - len(batch.groups)
        places = range(batch.position, batch.position + wanted)
        found = await draw([(stream[place], place) for place in places])
        groups = [group for group in found if group is not None]
        kept = [group for group in groups if bounds is None or bounds[0] <= group.accuracy() <= bounds[1]]
        batch.position += wanted
        batch.drawn += wanted
        batch.refused += wanted - len(groups)
        batch.filtered += len(groups) - len(kept)
        batch.groups += kept
        if len(batch.groups) >= size:
            batch.surplus = len(batch.groups) - size
            del batch.groups[size:]
            return batch
    said = f"{batch.drawn} prompts drawn, {batch.refused} refused, {batch.filtered} outside --accuracy_bounds {bounds}"
    raise Exhausted(f"a step wants {size} prompts and finds {len(batch.groups)}: {said}")


def weigh(groups: Sequence[Group], step_format: str, prm_mode: str, weights: Weights, advantage: str) -> None:
    """Give every answer its reward and its advantage. All groups have equally many answers."""
    for answer in (answer for group in groups for answer in group.answers):
        answer.well_formed = in_format(answer.text, step_format, answer.answer is not None)
        answer.reward = reward(answer.right, answer.well_formed, answer.scores, prm_mode, weights)
    rewards = torch.tensor([[answer.reward for answer in group.answers] for group in groups])
    for group, row in zip(groups, advantages(advantage, rewards).tolist(), strict=True):
        for answer, value in zip(group.answers, row, strict=True):
            answer.advantage = value


def weigh_tokens(groups: Sequence[Group], algorithm: str) -> None:
    """Give every answer what each of its tokens counts in the algorithm's mean (`token_weights`): in a prompt's or its
    own, over the tokens of answers that have a reward."""
    for group in groups:
        lengths = torch.tensor([len(answer.ids) * (answer.reward == answer.reward) for answer in group.answers])
        mask = torch.arange(max(1, int(lengths.max())))[None] < lengths[:, None]
        weights, _ = token_weights(algorithm, mask, [0] * len(mask))
        for answer, weight in zip(group.answers, weights.amax(dim=1).tolist(), strict=True):
            answer.weight = weight


def means_in(groups: Sequence[Group]) -> int:
    """How many prompts or answers the loss of these groups is the mean of: the weights of a mean's tokens are 1."""
    return round(sum(answer.weight * len(answer.ids) for group in groups for answer in group.answers))


def share(values: Sequence[float]) -> float:
    """The mean; NaN without any."""
    return sum(values) / len(values) if values else math.nan


def summary(groups: Sequence[Group]) -> dict[str, float]:
    """What the log says about answers: mean reward and its parts, mean length, the share cut at the limit, and how many
    were undecided. The means are of the answers that have a reward, or were decided."""
    answers = [answer for group in groups for answer in group.answers]
    scores = [share(answer.scores) for answer in answers if answer.scores]
    return {
        "reward": share([answer.reward for answer in answers if answer.reward == answer.reward]),
        "accuracy": share([answer.right for answer in answers if answer.right is not None]),
        "format": share([answer.well_formed for answer in answers]),
        **({"prm": share(scores)} if scores else {}),
        "length": share([len(answer.ids) for answer in answers]),
        "cut": share([answer.cut for answer in answers]),
        "undecided": sum(answer.right is None for answer in answers),
    }
