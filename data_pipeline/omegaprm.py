"""OmegaPRM: grow a tree of partial solutions whose Monte Carlo values show where wrong rollouts go wrong.

The search knows no files and no network: policy and judge are async callables passed in, and the tree comes back.
Paper, section 3.2; the details that only the released code fixes are in docs/fidelity.md.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from mm_prm.records import Node

Steps = list[str]
# Draws n rollouts that follow a prefix: their steps (the answer last) and the answer, None when there is none.
Policy = Callable[[Steps, int], Awaitable[Sequence[tuple[Steps, "str | None"]]]]
Judge = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True)
class SearchParams:
    """The paper's values; num_rollouts, alpha, beta and length_scale are the released code's."""

    num_rollouts: int = 16  # rollouts drawn from every new state
    max_search_count: int = 200
    rollout_budget: int = 1000  # checked between searches
    c_puct: float = 0.125
    alpha: float = 0.5
    beta: float = 0.9
    length_scale: int = 2000  # words


@dataclass
class Candidate:
    """An incorrect rollout of a state whose first error is still to be located."""

    node: Node
    prefix: Steps  # steps up to and including the node
    rollout: Steps

    def __post_init__(self) -> None:
        self.words = len("\n".join(self.rollout).split())


@dataclass
class Search:
    """One search tree while it grows. `rollouts` counts every rollout drawn, `searches` every selection."""

    policy: Policy
    judge: Judge
    params: SearchParams
    root: Node = field(default_factory=lambda: Node([]))
    candidates: list[Candidate] = field(default_factory=list)
    searches: int = 0
    rollouts: int = 0

    async def run(self) -> Node:
        """Search until the search limit, the rollout limit, or no candidate is left. Returns the root."""
        await self.expand(self.root, [])
        while (
            self.candidates
            and self.searches < self.params.max_search_count
            and self.rollouts < self.params.rollout_budget
        ):
            chosen = self.select()
            await self.locate_first_error(chosen)
            chosen.node.visit_count += 1
            self.searches += 1
        return self.root

    def select(self) -> Candidate:
        """Remove and return the candidate with the highest Q + U.

        Ties go to the candidate whose state has fewer visits, then to the lexicographically smaller rollout.
        """
        # Every search adds one visit to one state, so the sum over the tree is the number of searches.
        exploration = self.params.c_puct * math.sqrt(self.searches)
        best = min(
            range(len(self.candidates)),
            key=lambda i: (
                -selection_score(self.candidates[i], exploration, self.params),
                self.candidates[i].node.visit_count,
                self.candidates[i].rollout,
            ),
        )
        return self.candidates.pop(best)

    async def locate_first_error(self, chosen: Candidate) -> None:
        """Binary search over the rollout's steps; every state probed becomes a child and brings new candidates."""
        parent, prefix, steps = chosen.node, chosen.prefix, chosen.rollout
        left, right = 0, len(steps) - 1
        while left <= right:
            middle = (left + right) // 2
            child = Node(steps[left : middle + 1])
            parent.children.append(child)
            child_prefix = prefix + child.partial_solution
            if middle == len(steps) - 1:
                # The whole rollout: nothing is left to draw, and its answer is known to be wrong.
                child.num_rollouts = 1
            else:
                await self.expand(child, child_prefix)
            if child.mc_value == 0:
                right = middle - 1
            else:
                parent, prefix, left = child, child_prefix, middle + 1

    async def expand(self, node: Node, prefix: Steps) -> None:
        """Draw rollouts from a state and enter them: correct ones become leaves, incorrect ones candidates."""
        drawn = await self.policy(prefix, self.params.num_rollouts)
        answers = sorted({answer for _, answer in drawn if answer is not None})
        verdicts = dict(zip(answers, await asyncio.gather(*map(self.judge, answers)), strict=True))
        self.rollouts += len(drawn)
        for steps, answer in drawn:
            enter_rollout(node, steps, answer is not None and verdicts[answer])
        node.mc_value = node.num_correct / node.num_rollouts if node.num_rollouts else 0.0
        if node.mc_value > 0:
            self.candidates += [Candidate(node, prefix, rollout) for rollout in node.incorrect_rollouts if rollout]


def selection_score(candidate: Candidate, exploration: float, params: SearchParams) -> float:
    """Q + U with Q = alpha^(1 - mc) * beta^(words / L) and U = c_puct * sqrt(all visits) / (1 + visits)."""
    value = params.alpha ** (1 - candidate.node.mc_value) * params.beta ** (candidate.words / params.length_scale)
    return value + exploration / (1 + candidate.node.visit_count)


def enter_rollout(node: Node, steps: Steps, correct: bool) -> None:
    """Add one drawn rollout to its state; equal rollouts are kept once and counted each time."""
    node.num_rollouts += 1
    rollouts, counts = (
        (node.correct_rollouts, node.correct_counts) if correct else (node.incorrect_rollouts, node.incorrect_counts)
    )
    if steps in rollouts:
        counts[rollouts.index(steps)] += 1
    else:
        rollouts.append(steps)
        counts.append(1)
        if correct:
            node.children.append(Node(list(steps), mc_value=1.0))
    if correct:
        node.num_correct += 1
        leaf = next(child for child in node.children if child.mc_value == 1 and child.partial_solution == steps)
        leaf.num_rollouts += 1
        leaf.num_correct += 1
