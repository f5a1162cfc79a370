"""What a tree says of its solutions: paths of steps, with a label and the number of rollouts behind it.

A label is a Monte Carlo value: how often a rollout through this state, or this step, was right.

    edges            the paper's: a path follows the tree's edges, each with the value of the state it leads to
    rollouts         a path is a whole rollout, each of its prefixes with the mean outcome of the rollouts through it
    outcome          the same paths; a state's own value at its last step, the rollout's own outcome at every other step
    rollout_outcome  the same paths, the rollout's own outcome at every step

All but `edges`, which knows no wrong rollout but those that were searched, need no search: a root and its rollouts do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial

from merging import Key, exact

from mm_prm.trees import Node
from mm_prm.words import count_words

Label = tuple[float, int]  # a value in 0..1, and how many rollouts it is the mean of


@dataclass(frozen=True)
class SolutionPath:
    """entries: the steps between two markers (one tree edge, or one step).

    labels: [entries] values, None where there is none; counts: [entries] rollouts behind each; judged: [entries] judge
    values, None where unknown.
    """

    entries: tuple[tuple[str, ...], ...]
    labels: tuple[float | None, ...]
    positive: bool  # does the path end in a right solution (edges: above the threshold)
    judged: tuple[float | None, ...]
    counts: tuple[int | None, ...] = ()

    def words(self) -> int:
        return sum(count_words(step) for entry in self.entries for step in entry)


# ---------------------------------------------------------------- the tree's edges


def edge_paths(root: Node, threshold: float, prefixes: Prefixes | None = None) -> Iterator[SolutionPath]:
    """Depth first: a state with mc_value <= threshold ends a negative path, a leaf above it a positive one. prefixes:
    not needed here."""
    stack = [(0, child) for child in reversed(root.children)]  # no recursion: trees may be thousands of levels deep
    line: list[Node] = []  # the states from below the root to the one at hand
    while stack:
        depth, node = stack.pop()
        line[depth:] = [node]
        wrong = node.mc_value <= threshold
        if wrong or not node.children:
            rows = (
                (tuple(state.partial_solution), state.mc_value, state.judge_value, max(1, state.num_rollouts))
                for state in line
            )
            entries, labels, judged, counts = zip(*rows, strict=True)
            yield SolutionPath(entries, labels, not wrong, judged, counts)
        else:
            stack += [(depth + 1, child) for child in reversed(node.children)]


# ---------------------------------------------------------------- whole rollouts


class Prefixes:
    """The distinct prefixes of a tree's rollouts, each with a number, and what is known of them.

    A rollout drawn from a forced prefix says nothing about how often the policy reaches that prefix, so it counts at
    and below it, never for its ancestors. An undecided one has no outcome and counts nowhere.

    key: what steps are known by (`merging`). total, right: rollouts through a prefix, and the right ones among
    them; forced: values of the states that the search drew from; judged: judge values; outcomes: all rollouts.
    """

    def __init__(self, root: Node, key: Key = exact):
        self.key = key
        self.numbers: dict[tuple[int, Hashable], int] = {}  # (a prefix, next step) -> the longer prefix
        self.right: dict[int, int] = defaultdict(int)
        self.total: dict[int, int] = defaultdict(int)
        self.forced: dict[int, Label] = {}
        self.judged: dict[int, float] = {}
        self.outcomes: dict[tuple[str, ...], Label] = {}
        for drawn_from, steps, count, correct in root.rollouts():
            if correct is not None:
                self.enter(drawn_from, steps, count, correct)
        for steps, node in root.walk():
            if steps:
                self.enter_state(self.of(steps)[-1], node)

    def of(self, steps: tuple[str, ...]) -> list[int]:
        """[steps] numbers of the prefixes that end at each step; a number costs less than the prefix itself."""
        found = [0]
        for at in range(len(steps)):
            found.append(self.numbers.setdefault((found[-1], self.key(steps, at)), len(self.numbers) + 1))
        return found[1:]

    def enter(self, drawn_from: int, steps: tuple[str, ...], count: int, correct: bool) -> None:
        _, before = self.outcomes.get(steps, (0.0, 0))
        self.outcomes[steps] = float(correct), before + count
        for prefix in self.of(steps)[max(drawn_from - 1, 0) :]:
            self.total[prefix] += count
            self.right[prefix] += count * correct

    def enter_state(self, prefix: int, node: Node) -> None:
        """A prefix that is the end of several states has the mean of their rollouts."""
        value, before = self.forced.get(prefix, (0.0, 0))
        count = max(1, node.num_rollouts)  # trees made elsewhere may not say it
        self.forced[prefix] = (value * before + node.mc_value * count) / (before + count), before + count
        if node.judge_value is not None:
            self.judged.setdefault(prefix, node.judge_value)

    def singletons(self) -> tuple[int, int]:
        """How many prefixes a single rollout went through, and how many there are."""
        return sum(count == 1 for count in self.total.values()), len(self.total)


def mean_outcome(prefixes: Prefixes, prefix: int, outcome: Label) -> Label | None:
    """Of all rollouts through the prefix. None in a tree made elsewhere that forces what no rollout went through."""
    total = prefixes.total.get(prefix)
    return (prefixes.right[prefix] / total, total) if total else None


def value_or_outcome(prefixes: Prefixes, prefix: int, outcome: Label) -> Label | None:
    """A searched state's value; elsewhere the outcome of the rollout, as if no two shared a step."""
    return prefixes.forced.get(prefix, outcome)


def own_outcome(prefixes: Prefixes, prefix: int, outcome: Label) -> Label | None:
    """The outcome of the rollout."""
    return outcome


# The label of a prefix in a rollout of that outcome
LabelOf = Callable[[Prefixes, int, Label], "Label | None"]


def whole_rollouts(
    root: Node, threshold: float, prefixes: Prefixes | None = None, *, label_of: LabelOf = mean_outcome
) -> Iterator[SolutionPath]:
    """Every distinct rollout, one entry and one label per step. threshold: not needed here; prefixes: the root's, where
    they are known already."""
    prefixes = prefixes or Prefixes(root)
    for steps, outcome in prefixes.outcomes.items():
        if steps:
            found = prefixes.of(steps)
            labels = [label_of(prefixes, prefix, outcome) or (None, None) for prefix in found]
            values, counts = zip(*labels, strict=True)
            judged = tuple(map(prefixes.judged.get, found))
            yield SolutionPath(tuple((step,) for step in steps), values, outcome[0] == 1, judged, counts)


# How paths and labels come from a tree, and how many paths of one tree are kept unless told otherwise.
LABELS_FROM: dict[str, tuple[Callable[..., Iterator[SolutionPath]], int | None]] = {
    "edges": (edge_paths, None),
    "rollouts": (partial(whole_rollouts, label_of=mean_outcome), 10),
    "outcome": (partial(whole_rollouts, label_of=value_or_outcome), 10),
    "rollout_outcome": (partial(whole_rollouts, label_of=own_outcome), 10),
}


def by_step(path: SolutionPath) -> SolutionPath:
    """The same path with every step as its own entry; an entry's label goes to its last step, the others get None."""
    rows: list[tuple] = []
    for entry, *rest in zip(path.entries, path.labels, path.judged, path.counts, strict=True):
        rows += [((step,), None, None, None) for step in entry[:-1]] + [(entry[-1:], *rest)]
    entries, labels, judged, counts = zip(*rows, strict=True)
    return SolutionPath(entries, labels, path.positive, judged, counts)


# What gets a marker of its own. In a rollout path every entry is one step already.
SPELLINGS: dict[str, Callable[[SolutionPath], SolutionPath]] = {"edge": lambda path: path, "step": by_step}
