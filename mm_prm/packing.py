"""Sequences that share their beginning -> one row of tokens in which every shared token stands once.

All paths of a problem share image, question and their common steps. Their sequences are merged into a tree by their
token ids (a shared beginning is the same hidden state, so nothing changes but the cost), and the trees of several
problems into one row, depth first:

    A B C D        row            A  B  C  D  E  F  G
    A B E     ->   position       0  1  2  3  2  0  1
    F G            subtree_end    5  5  4  4  5  7  7

A token attends to its ancestors and itself: token q sees token k if k <= q < subtree_end[k].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from mm_prm.prm_format import Encoded


@dataclass
class Packed:
    """The row. input_ids, position_ids (depth in the tree), subtree_end (first token after the subtree): [tokens];
    columns: where the wanted positions of every sequence went, sequence after sequence in the order given."""

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    subtree_end: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)

    def add(self, sequences: Sequence[Encoded]) -> None:
        """Merge sequences that read the same pictures into one tree, each up to its last wanted position.

        marker_positions of a sequence: the wanted ones, at least one.
        """
        needed = [sequence.input_ids[: sequence.marker_positions[-1] + 1] for sequence in sequences]
        branch: list[int] = []  # where the tokens of the sequence before stand
        before: list[int] = []
        place: dict[int, list[int]] = {}
        for number in sorted(range(len(needed)), key=needed.__getitem__):
            ids = needed[number]
            shared = common_length(before, ids)
            self.close(branch[shared:])
            fresh = range(len(self.input_ids), len(self.input_ids) + len(ids) - shared)
            branch = [*branch[:shared], *fresh]
            self.input_ids += ids[shared:]
            self.position_ids += range(shared, len(ids))
            self.subtree_end += [0] * len(fresh)
            place[number] = [branch[at] for at in sequences[number].marker_positions]
            before = ids
        self.close(branch)
        self.columns += [column for number in range(len(sequences)) for column in place[number]]

    def close(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self.subtree_end[token] = len(self.input_ids)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of leading entries that are equal."""
    shortest = min(len(one), len(other))
    return next((at for at in range(shortest) if one[at] != other[at]), shortest)


Segment = tuple[int, int, list[tuple[int, int]]]


def segments(subtree_end: Sequence[int]) -> list[Segment]:
    """The row's unbranched pieces: (start, stop, spans); its tokens see all of `spans`, themselves causally.

    spans: pieces of the row from the root down to this one, [start, stop) each, neighbours joined.
    """
    found: list[Segment] = []
    above: list[tuple[int, int]] = []  # unbranched pieces from the root down
    start = 0
    for _, run in groupby(subtree_end):
        stop = start + sum(1 for _ in run)
        while above and subtree_end[above[-1][0]] <= start:
            above.pop()
        above.append((start, stop))
        spans: list[tuple[int, int]] = []
        for first, last in above:
            if spans and spans[-1][1] == first:
                spans[-1] = (spans[-1][0], last)
            else:
                spans.append((first, last))
        found.append((start, stop, spans))
        start = stop
    return found
