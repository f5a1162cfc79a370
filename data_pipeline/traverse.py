"""Sample labelled solution paths from finished trees.

    python data_pipeline/traverse.py --input_dir trees \\
        --output_file paths.json --labels_from edges

edges: the paper's sampling; a path follows the tree's edges, each edge with the
MC value of the state it leads to.
rollouts: ours; a path is a whole rollout, each step prefix with the mean
outcome of the rollouts through it.
Trees whose root MC value is 0 or 1 show no first error and are left out.
A histogram of the labels is written beside the paths: paths_labels.png.

--spelling step puts a <prm> after every step of an edge; the label stands at
the last one, the others get null. With rollouts every step has its label and
both spellings are the same.

--consensus T (0..1, needs mllm_as_a_judge.py) keeps a path only if Monte Carlo
and judge see the same first error, or none: the first MC value <= --threshold,
the first judge value < T. An unknown judge value shows no error.
"""

from __future__ import annotations

import io
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from mm_prm import cli
from mm_prm.prm_format import process_text
from mm_prm.records import Node, Tree, image_value, read_trees, write_atomic, write_json
from mm_prm.words import count_words

MIN_WORDS = 11  # as released: paths of at most 10 words are dropped


@dataclass(frozen=True)
class SolutionPath:
    """entries: the steps between two markers (one tree edge, or one step).

    labels: [entries] MC values, None where there is none; judged: [entries] judge values, None where unknown.
    """

    entries: tuple[tuple[str, ...], ...]
    labels: tuple[float | None, ...]
    positive: bool  # does the path end in a right solution (edges: above the threshold)
    judged: tuple[float | None, ...]

    def words(self) -> int:
        return sum(count_words(step) for entry in self.entries for step in entry)


def edge_paths(root: Node, threshold: float) -> Iterator[SolutionPath]:
    """Depth first: a state with mc_value <= threshold ends a negative path, a leaf above it a positive one."""
    stack = [(0, child) for child in reversed(root.children)]  # no recursion: trees may be thousands of levels deep
    line: list[Node] = []  # the states from below the root to the one at hand
    while stack:
        depth, node = stack.pop()
        line[depth:] = [node]
        wrong = node.mc_value <= threshold
        if wrong or not node.children:
            rows = ((tuple(state.partial_solution), state.mc_value, state.judge_value) for state in line)
            entries, labels, judged = zip(*rows, strict=True)
            yield SolutionPath(entries, labels, not wrong, judged)
        else:
            stack += [(depth + 1, child) for child in reversed(node.children)]


def rollouts_of(root: Node) -> Iterator[tuple[int, tuple[str, ...], int, bool | None]]:
    """Every distinct rollout of a tree: (length of the prefix it was drawn from, all steps, how often, correct?).

    The last is None for an undecided one.
    """
    for prefix, node in root.walk():
        for verdict in (True, False, None):
            for steps, count in zip(*node.drawn(verdict), strict=True):
                yield len(prefix), (*prefix, *steps), count, verdict


def rollout_paths(root: Node, threshold: float) -> Iterator[SolutionPath]:
    """Every distinct rollout with a label per step: the mean outcome of all rollouts through that exact prefix.

    A rollout drawn from a forced prefix says nothing about how often the policy reaches that prefix,
    so it counts at and below it, never for its ancestors. An undecided one has no outcome and counts nowhere.
    """
    numbers: dict[tuple[int, str], int] = {}  # (number of a prefix, next step) -> number of the longer prefix

    def prefixes(steps: tuple[str, ...]) -> list[int]:
        """[steps] numbers of the prefixes that end at each step; a number costs less than the prefix itself."""
        found = [0]
        for step in steps:
            found.append(numbers.setdefault((found[-1], step), len(numbers) + 1))
        return found[1:]

    right: dict[int, int] = defaultdict(int)
    total: dict[int, int] = defaultdict(int)
    judged: dict[int, float] = {}
    outcomes: dict[tuple[str, ...], bool] = {}
    for drawn_from, steps, count, correct in rollouts_of(root):
        if correct is None:
            continue
        outcomes[steps] = correct
        for prefix in prefixes(steps)[max(drawn_from - 1, 0) :]:
            total[prefix] += count
            right[prefix] += count * correct
    for steps, node in root.walk():
        if steps and node.judge_value is not None:
            judged.setdefault(prefixes(steps)[-1], node.judge_value)
    for steps, correct in outcomes.items():
        if steps:
            found = prefixes(steps)
            # A tree made elsewhere may force a prefix that no rollout went through: it has no label.
            labels = tuple(right[prefix] / total[prefix] if total[prefix] else None for prefix in found)
            yield SolutionPath(tuple((step,) for step in steps), labels, correct, tuple(map(judged.get, found)))


def by_step(path: SolutionPath) -> SolutionPath:
    """The same path with every step as its own entry; an entry's label goes to its last step, the others get None."""
    rows: list[tuple] = []
    for entry, label, judge in zip(path.entries, path.labels, path.judged, strict=True):
        rows += [((step,), None, None) for step in entry[:-1]] + [(entry[-1:], label, judge)]
    entries, labels, judged = zip(*rows, strict=True)
    return SolutionPath(entries, labels, path.positive, judged)


# What gets a marker of its own. In a rollout path every entry is one step already.
SPELLINGS: dict[str, Callable[[SolutionPath], SolutionPath]] = {"edge": lambda path: path, "step": by_step}


def agrees(path: SolutionPath, threshold: float, consensus: float) -> bool:
    """Do Monte Carlo (label <= threshold) and judge (known value < consensus) see the same first error, or none?"""
    monte_carlo = (index for index, label in enumerate(path.labels) if label is not None and label <= threshold)
    judge = (index for index, value in enumerate(path.judged) if value is not None and value < consensus)
    return next(monte_carlo, None) == next(judge, None)


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
    trees: list[Tree],
    labels_from: str,
    threshold: float,
    limit: int | None,
    seed: int,
    spelling: str = "edge",
    consensus: float | None = None,
) -> tuple[list[tuple[Tree, SolutionPath]], dict[str, int]]:
    """Paths of all trees and a count of what was kept and dropped.

    For edges the positive paths of all trees together are subsampled to the number of negative ones (as released).
    The spelling comes last, so it never changes which paths are kept.
    """
    paths_of, usual = LABELS_FROM[labels_from]
    limit = limit or usual
    counts = dict.fromkeys(("trees", "trees_root_0_or_1", "too_short", "duplicates", "no_consensus", "over_limit"), 0)
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
        agreed = [path for path in distinct if consensus is None or agrees(path, threshold, consensus)]
        counts["no_consensus"] += len(distinct) - len(agreed)
        rng = random.Random(f"{seed} {tree.id}")
        chosen = balance(agreed, limit, rng) if limit and len(agreed) > limit else agreed
        counts["over_limit"] += len(agreed) - len(chosen)
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
    kept = [(tree, SPELLINGS[spelling](path)) for tree, path in kept]
    labels = [label for _, path in kept for label in path.labels]
    counts |= {"paths": len(kept), "labels": len(labels) - labels.count(None), "null_labels": labels.count(None)}
    return kept, counts


def path_record(tree: Tree, path: SolutionPath, hard_above: float | None) -> dict[str, object]:
    """One record of the paths file; hard labels are 1.0 above the threshold, else 0.0; None stays None."""
    labels = path.labels
    if hard_above is not None:
        labels = tuple(None if label is None else float(label > hard_above) for label in labels)
    return {
        "id": tree.id,
        "question": tree.question,
        "answer": tree.answer,
        "image_path": image_value(tree.images),
        "steps": [list(entry) for entry in path.entries],
        "process": process_text(["\n".join(entry) for entry in path.entries]),
        "labels": list(labels),
    }


def label_histogram(records: list[dict]) -> bytes:
    """A PNG of how often each label was written, 20 bins over 0..1; the same labels give the same bytes."""
    labels = [label for record in records for label in record["labels"] if label is not None]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(labels, bins=20, range=(0, 1))
    axes.set(title=f"{len(records)} paths, {len(labels)} labels", xlabel="label", ylabel="count", xlim=(0, 1))
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of tree files")
    parser.add_argument("--output_file", type=Path, required=True, help="paths, a JSON list")
    parser.add_argument("--labels_from", choices=list(LABELS_FROM), default="edges", help="where labels come from")
    parser.add_argument("--labels", choices=["soft", "hard"], default="soft", help="MC values, or 0 and 1")
    parser.add_argument("--threshold", type=float, default=0.0, help="MC values up to this one count as wrong")
    parser.add_argument("--spelling", choices=list(SPELLINGS), default="edge", help="what gets a <prm> of its own")
    parser.add_argument("--consensus", type=cli.fraction, metavar="T", help="keep paths on which MC and judge agree")
    parser.add_argument(
        "--max_paths_per_tree", type=cli.positive_int, help="default: no limit for edges, 10 for rollouts"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which paths are kept")
    args = parser.parse_args()
    trees = read_trees(args.input_dir)
    if args.consensus is not None and (unjudged := [tree.id for tree in trees if not tree.root.is_judged()]):
        some = ", ".join(unjudged[:5])
        raise cli.BadInput(f"{len(unjudged)} trees lack judge_value ({some}, ...): run mllm_as_a_judge.py first")
    paths, counts = sample(
        *(trees, args.labels_from, args.threshold, args.max_paths_per_tree, args.seed, args.spelling, args.consensus)
    )
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    if not paths:
        reasons = {
            "trees_root_0_or_1": "MC 0 or 1: a problem's rollouts are all wrong or all right",
            "too_short": f"too_short: paths of fewer than {MIN_WORDS} words, which are dropped as released",
        }
        why = "".join(f"; {reason}" for name, reason in reasons.items() if counts[name])
        raise cli.BadInput(f"{args.input_dir}: no path left: {said}{why}")
    print(said)
    hard_above = args.threshold if args.labels == "hard" else None
    records = [path_record(tree, path, hard_above) for tree, path in paths]
    write_atomic(args.output_file.with_name(f"{args.output_file.stem}_labels.png"), label_histogram(records))
    write_json(args.output_file, records)
    positive = sum(path.positive for _, path in paths)
    print(f"{args.output_file}: {len(paths)} paths ({positive} positive), labels from {args.labels_from}")


if __name__ == "__main__":
    cli.run(main)
