"""Sample labelled solution paths from finished trees.

    python data_pipeline/traverse.py --input_dir trees --output_file paths.json --labels_from edges

edges: the paper's sampling; a path follows the tree's edges, each edge with the MC value of the state it leads to.
rollouts: ours; a path is a whole rollout, each step prefix with the mean outcome of the rollouts through it.
Trees whose root MC value is 0 or 1 show no first error and are left out.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mm_prm import cli
from mm_prm.prm_format import process_text
from mm_prm.records import Node, Tree, image_value, read_trees, write_json

MIN_WORDS = 11  # as released: paths of at most 10 words are dropped


@dataclass(frozen=True)
class SolutionPath:
    """entries: the steps between two labels (one tree edge, or one step); labels: one MC value per entry."""

    entries: tuple[tuple[str, ...], ...]
    labels: tuple[float, ...]
    positive: bool  # does the path end in a right solution (edges: above the threshold)

    def words(self) -> int:
        return sum(len(step.split()) for entry in self.entries for step in entry)


def edge_paths(root: Node, threshold: float) -> Iterator[SolutionPath]:
    """Depth first: a state with mc_value <= threshold ends a negative path, a leaf above it a positive one."""

    def descend(node: Node, entries: tuple, labels: tuple) -> Iterator[SolutionPath]:
        for child in node.children:
            path = (*entries, tuple(child.partial_solution)), (*labels, child.mc_value)
            if child.mc_value <= threshold:
                yield SolutionPath(*path, positive=False)
            elif not child.children:
                yield SolutionPath(*path, positive=True)
            else:
                yield from descend(child, *path)

    return descend(root, (), ())


def rollouts_of(node: Node, prefix: tuple[str, ...] = ()) -> Iterator[tuple[int, tuple[str, ...], int, bool]]:
    """Every distinct rollout of a subtree: (length of the prefix it was drawn from, all steps, how often, correct?)."""
    for rollouts, counts, correct in (
        (node.correct_rollouts, node.correct_counts, True),
        (node.incorrect_rollouts, node.incorrect_counts, False),
    ):
        for steps, count in zip(rollouts, counts, strict=True):
            yield len(prefix), (*prefix, *steps), count, correct
    for child in node.children:
        yield from rollouts_of(child, (*prefix, *child.partial_solution))


def rollout_paths(root: Node, threshold: float) -> Iterator[SolutionPath]:
    """Every distinct rollout with a label per step: the mean outcome of all rollouts through that exact prefix.

    A rollout drawn from a forced prefix says nothing about how often the policy reaches that prefix,
    so it counts at and below it, never for its ancestors.
    """
    right: dict[tuple[str, ...], int] = defaultdict(int)
    total: dict[tuple[str, ...], int] = defaultdict(int)
    outcomes: dict[tuple[str, ...], bool] = {}
    for drawn_from, steps, count, correct in rollouts_of(root):
        outcomes[steps] = correct
        for length in range(max(drawn_from, 1), len(steps) + 1):
            total[steps[:length]] += count
            right[steps[:length]] += count * correct
    for steps, correct in outcomes.items():
        if steps:
            prefixes = [steps[:length] for length in range(1, len(steps) + 1)]
            labels = tuple(right[prefix] / total[prefix] for prefix in prefixes)
            yield SolutionPath(tuple((step,) for step in steps), labels, correct)


# How paths and labels come from a tree, and how many paths of one tree are kept unless told otherwise.
LABELS_FROM: dict[str, tuple[Callable[[Node, float], Iterator[SolutionPath]], int | None]] = {
    "edges": (edge_paths, None),
    "rollouts": (rollout_paths, 10),
}


def balance(paths: list[SolutionPath], limit: int, rng: random.Random) -> list[SolutionPath]:
    """At most `limit` paths of one tree, half positive and half negative where possible."""
    sides = [[path for path in paths if path.positive is kind] for kind in (True, False)]
    for side in sides:
        rng.shuffle(side)
    kept = [side[: limit // 2] for side in sides]
    for mine, other in ((0, 1), (1, 0)):
        kept[mine] = sides[mine][: max(limit // 2, limit - len(kept[other]))]
    return kept[0] + kept[1]


def sample(
    trees: list[Tree], labels_from: str, threshold: float, limit: int | None, seed: int
) -> tuple[list[tuple[Tree, SolutionPath]], dict[str, int]]:
    """Paths of all trees and a count of what was kept and dropped.

    For edges the positive paths of all trees together are subsampled to the number of negative ones (as released).
    """
    paths_of, usual = LABELS_FROM[labels_from]
    limit = limit or usual
    counts = dict.fromkeys(("trees", "trees_root_0_or_1", "paths", "too_short", "duplicates", "over_limit"), 0)
    kept: list[tuple[Tree, SolutionPath]] = []
    for tree in trees:
        counts["trees"] += 1
        if not 0 < tree.root.mc_value < 1:
            counts["trees_root_0_or_1"] += 1
            continue
        found = list(paths_of(tree.root, threshold))
        long_enough = [path for path in found if path.words() >= MIN_WORDS]
        distinct = list({path.entries: path for path in reversed(long_enough)}.values())[::-1]  # the first of equals
        counts["too_short"] += len(found) - len(long_enough)
        counts["duplicates"] += len(long_enough) - len(distinct)
        rng = random.Random(f"{seed} {tree.id}")
        chosen = balance(distinct, limit, rng) if limit and len(distinct) > limit else distinct
        counts["over_limit"] += len(distinct) - len(chosen)
        kept += [(tree, path) for path in chosen]
    if labels_from == "edges":
        positive = [item for item in kept if item[1].positive]
        negative = [item for item in kept if not item[1].positive]
        if len(positive) > len(negative):
            chosen_ids = set(random.Random(seed).sample(range(len(positive)), len(negative)))
            counts["positives_subsampled"] = len(positive) - len(negative)
            positive = [item for index, item in enumerate(positive) if index in chosen_ids]
        kept = positive + negative
    kept.sort(key=lambda item: (item[0].id, item[1].entries))
    counts["paths"] = len(kept)
    return kept, counts


def path_record(tree: Tree, path: SolutionPath, hard_above: float | None) -> dict[str, object]:
    """One record of the paths file; hard labels are 1.0 above the threshold, else 0.0."""
    labels = path.labels if hard_above is None else [float(label > hard_above) for label in path.labels]
    return {
        "id": tree.id,
        "question": tree.question,
        "answer": tree.answer,
        "image_path": image_value(tree.images),
        "steps": [list(entry) for entry in path.entries],
        "process": process_text(["\n".join(entry) for entry in path.entries]),
        "labels": list(labels),
    }


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of tree files")
    parser.add_argument("--output_file", type=Path, required=True, help="paths, a JSON list")
    parser.add_argument("--labels_from", choices=list(LABELS_FROM), default="edges", help="where labels come from")
    parser.add_argument("--labels", choices=["soft", "hard"], default="soft", help="MC values, or 0 and 1")
    parser.add_argument("--threshold", type=float, default=0.0, help="MC values up to this one count as wrong")
    parser.add_argument(
        "--max_paths_per_tree", type=cli.positive_int, help="default: no limit for edges, 10 for rollouts"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which paths are kept")
    args = parser.parse_args()
    trees = read_trees(args.input_dir)
    paths, counts = sample(trees, args.labels_from, args.threshold, args.max_paths_per_tree, args.seed)
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    if not paths:
        raise cli.BadInput(f"{args.input_dir}: no path left: every root MC value is 0 or 1, or every path is too short")
    hard_above = args.threshold if args.labels == "hard" else None
    write_json(args.output_file, [path_record(tree, path, hard_above) for tree, path in paths])
    labels = sum(len(path.labels) for _, path in paths)
    positive = sum(path.positive for _, path in paths)
    print(f"{args.output_file}: {len(paths)} paths ({positive} positive), {labels} labels from {args.labels_from}")


if __name__ == "__main__":
    cli.run(main)
