"""OmegaPRM: grow a tree of partial solutions whose Monte Carlo values show where wrong rollouts go wrong.

The search knows no files and no network: policy and judge are async callables passed in, and the tree comes back.
Paper, section 3.2; the details that only the released code fixes are in docs/fidelity.md. A rollout on which the judge
gives no verdict is neither right nor wrong: it is kept beside the others and counts nowhere.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from mm_prm.cli import Fault
from mm_prm.statistics import wilson
from mm_prm.trees import Node
from mm_prm.words import count_words

Steps = list[str]
# Draws n rollouts that follow a prefix: their steps (the answer last) and the answer, None when there is none.
Policy = Callable[[Steps, int], Awaitable[Sequence[tuple[Steps, "str | None"]]]]
Judge = Callable[[str], Awaitable["bool | None"]]  # right, wrong, or None: undecided


@dataclass(frozen=True)
class Adaptive:
    """Draw from a state in rounds of `SearchParams.num_rollouts` until its value is settled: all rollouts alike, or the
    half width of its Wilson interval of 95 % small enough (the rule and its width: AMCS, arXiv 2509.24351)."""

    most: int  # rollouts of a state at most
    half_width: float = 0.1

    def settled(self, node: Node) -> bool:
        if node.num_correct in (0, node.num_rollouts):
            return node.num_rollouts > 0
        low, high = wilson(node.num_correct, node.num_rollouts)
        return (high - low) / 2 <= self.half_width


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
    adaptive: Adaptive | None = None  # else every state gets num_rollouts


class NoneDecided(Fault):
    """The judge gave no verdict on any of a state's rollouts: its MC value would be a guess."""


@dataclass
class State:
    """A node with mc_value > 0 and its incorrect rollouts still to be searched: (-Q, rollout), the best first."""

    node: Node
    prefix: Steps  # steps up to and including the node
    candidates: list[tuple[float, Steps]]


@dataclass
class Search:
    """One search tree while it grows.

    searches: selections so far; rollouts: rollouts drawn; unanswered: those among them that never gave an answer;
    undecided: those on whose answer the judge gave no verdict.
    """

    policy: Policy
    judge: Judge
    params: SearchParams
    root: Node = field(default_factory=lambda: Node([]))
    searches: int = 0
    rollouts: int = 0
    unanswered: int = 0
    undecided: int = 0

    def __post_init__(self) -> None:
        # States with candidates, by visit count: those of one count share U, so Q alone orders them.
        self.open: dict[int, list[tuple[float, Steps, int, State]]] = defaultdict(list)
        self.order = itertools.count()  # the older state where even the rollouts are equal

    async def run(self) -> Node:
        """Search until the search limit, the rollout limit, or no candidate is left. Returns the root.

        Raises NoneDecided, and what policy and judge raise.
        """
        await self.expand(self.root, [])
        while self.open and self.searches < self.params.max_search_count and self.rollouts < self.params.rollout_budget:
            state, rollout = self.select()
            await self.locate_first_error(state, rollout)
            state.node.visit_count += 1
            self.searches += 1
            self.enter(state)
        return self.root

    def select(self) -> tuple[State, Steps]:
        """Remove the candidate with the highest Q + U, and its state until the search is over; return both.

        Ties go to the candidate whose state has fewer visits, then to the lexicographically smaller rollout.
        Visit counts change only for the state that is out, and U is computed here: no score is ever stale.
        """
        # U = c_puct * sqrt(all visits) / (1 + visits); every search adds one visit to one state.
        exploration = self.params.c_puct * math.sqrt(self.searches)
        visits = min(self.open, key=lambda count: (self.open[count][0][0] - exploration / (1 + count), count))
        *_, state = heapq.heappop(self.open[visits])
        if not self.open[visits]:
            del self.open[visits]
        return state, heapq.heappop(state.candidates)[1]

    def enter(self, state: State) -> None:
        """Put a state where `select` finds it, if it has candidates left."""
        if state.candidates:
            heapq.heappush(self.open[state.node.visit_count], (*state.candidates[0], next(self.order), state))

    async def locate_first_error(self, state: State, steps: Steps) -> None:
        """Binary search over the rollout's steps; every state probed becomes a child and brings new candidates."""
        parent, prefix = state.node, state.prefix
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
        """Draw rollouts from a state and enter them: correct ones become leaves, incorrect ones candidates.

        Raises NoneDecided when there are rollouts and a verdict on none of them.
        """
        adaptive, drawn = self.params.adaptive, await self.draw(node, prefix, self.params.num_rollouts)
        while adaptive and drawn < adaptive.most and not adaptive.settled(node):
            more = await self.draw(node, prefix, min(self.params.num_rollouts, adaptive.most - drawn))
            if not more:
                break
            drawn += more
        self.undecided += node.undecided
        if drawn and not node.num_rollouts:
            where, [such, *_] = f"after step {len(prefix)}" if prefix else "from the question", node.undecided_rollouts
            raise NoneDecided(f"no verdict on any of the {drawn} rollouts {where}, such as {such[-1][:80]!r}")
        node.mc_value = node.num_correct / node.num_rollouts if node.num_rollouts else 0.0
        if node.mc_value > 0:
            found = [(-value(node, rollout, self.params), rollout) for rollout in node.incorrect_rollouts if rollout]
            heapq.heapify(found)
            self.enter(State(node, prefix, found))

    async def draw(self, node: Node, prefix: Steps, count: int) -> int:
        """Draw so many rollouts from a state, judge and enter them. Returns how many came."""
        drawn = await self.policy(prefix, count)
        answers = sorted({answer for _, answer in drawn if answer is not None})
        verdicts = dict(zip(answers, await asyncio.gather(*map(self.judge, answers)), strict=True))
        self.rollouts += len(drawn)
        self.unanswered += sum(answer is None for _, answer in drawn)
        for steps, answer in drawn:
            enter_rollout(node, steps, False if answer is None else verdicts[answer])
        return len(drawn)


def value(node: Node, rollout: Steps, params: SearchParams) -> float:
    """Q = alpha^(1 - mc) * beta^(words / L), words: those of the rollout's steps."""
    words = sum(map(count_words, rollout))
    return params.alpha ** (1 - node.mc_value) * params.beta ** (words / params.length_scale)


def enter_rollout(node: Node, steps: Steps, verdict: bool | None) -> None:
    """Add one drawn rollout to its state; equal rollouts are kept once and counted each time."""
    rollouts, counts = node.drawn(verdict)
    if steps in rollouts:
        counts[rollouts.index(steps)] += 1
    else:
        rollouts.append(steps)
        counts.append(1)
        if verdict:
            node.children.append(Node(list(steps), mc_value=1.0))
    if verdict is None:
        node.undecided += 1
        return
    node.num_rollouts += 1
    if verdict:
        node.num_correct += 1
        leaf = node.children[rollouts.index(steps)]  # while a state is expanded it has no children but these leaves
        leaf.num_rollouts += 1
        leaf.num_correct += 1
