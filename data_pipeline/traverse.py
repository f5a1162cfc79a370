"""Sample labelled solution paths from finished trees.

    python data_pipeline/traverse.py --input_dir trees \\
        --output_file paths.json --labels_from edges

edges: the paper's sampling; a path follows the tree's edges, each edge with the
MC value of the state it leads to.
The others are ours; a path is a whole rollout, with a label after every step:
rollouts, the mean outcome of the rollouts through that exact prefix; outcome,
a searched state's MC value, elsewhere the rollout's own outcome;
rollout_outcome, that everywhere. They need no search (--max_search_count 0).
--merge guarded counts beginnings as one whose steps have the same numbers and
operators in order; hidden wants the policy's states to be close as well.
label_counts in the output: how many rollouts are behind each label.
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

import argparse
import io
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from labels import LABELS_FROM, SPELLINGS, Prefixes, SolutionPath
from matplotlib.figure import Figure
from merging import KEYS, Key, exact

from mm_prm import cli
from mm_prm.fields import image_value
from mm_prm.files import write_atomic, write_json
from mm_prm.prm_format import STEP_FORMATS, process_text
from mm_prm.trees import Tree, read_trees

MIN_WORDS = 11  # as released: paths of at most 10 words are dropped
COUNTED: tuple[str, ...] = ("trees", "trees_root_0_or_1", "prefixes", "prefixes_of_one_rollout")
COUNTED += ("too_short", "duplicates", "no_consensus", "over_limit")


def agrees(path: SolutionPath, threshold: float, consensus: float) -> bool:
    """Do Monte Carlo (label <= threshold) and judge (known value < consensus) see the same first error, or none?"""
    monte_carlo = (index for index, label in enumerate(path.labels) if label is not None and label <= threshold)
    judge = (index for index, value in enumerate(path.judged) if value is not None and value < consensus)
    return next(monte_carlo, None) == next(judge, None)


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
    key_of: Callable[[Tree], Key] = lambda tree: exact,
) -> tuple[list[tuple[Tree, SolutionPath]], dict[str, int]]:
    """Paths of all trees and a count of what was kept and dropped.

    For edges the positive paths of all trees together are subsampled to the number of negative ones (as released).
    The spelling comes last, so it never changes which paths are kept. key_of: what the steps of a tree are known by.
    """
    paths_of, usual = LABELS_FROM[labels_from]
    limit = limit or usual
    counts = dict.fromkeys(COUNTED, 0)
    kept: list[tuple[Tree, SolutionPath]] = []
    for tree in trees:
        counts["trees"] += 1
        prefixes = Prefixes(tree.root, key_of(tree))
        alone, distinct_prefixes = prefixes.singletons()
        counts["prefixes"] += distinct_prefixes
        counts["prefixes_of_one_rollout"] += alone
        if not 0 < tree.root.mc_value < 1:
            counts["trees_root_0_or_1"] += 1
            continue
        found = list(paths_of(tree.root, threshold, prefixes))
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
        "label_counts": list(path.counts),
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


def key_from_flags(args: argparse.Namespace) -> Callable[[Tree], Key]:
    """The key of a tree's steps, as --merge has it."""
    if args.merge != "hidden":
        return lambda tree: KEYS[args.merge]
    from hidden_states import HiddenStates  # torch and transformers: only here

    return HiddenStates(args.policy, args.step_format).key


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of tree files")
    parser.add_argument("--output_file", type=Path, required=True, help="paths, a JSON list")
    parser.add_argument("--labels_from", choices=list(LABELS_FROM), default="edges", help="where labels come from")
    parser.add_argument("--labels", choices=["soft", "hard"], default="soft", help="MC values, or 0 and 1")
    parser.add_argument("--threshold", type=cli.fraction, default=0.0, help="MC values up to this one count as wrong")
    parser.add_argument("--spelling", choices=list(SPELLINGS), default="edge", help="what gets a <prm> of its own")
    parser.add_argument(
        "--merge", choices=[*KEYS, "hidden"], default="exact", help="which beginnings of solutions count as one"
    )
    parser.add_argument("--policy", help="checkpoint whose states --merge hidden compares")
    parser.add_argument("--step_format", choices=STEP_FORMATS, default="tags", help="how that policy writes its steps")
    parser.add_argument("--consensus", type=cli.fraction, metavar="T", help="keep paths on which MC and judge agree")
    parser.add_argument("--max_paths_per_tree", type=cli.positive_int, help="default: no limit for edges, else 10")
    parser.add_argument("--seed", type=int, default=0, help="decides which paths are kept")
    args = parser.parse_args()
    if (args.merge == "hidden") != bool(args.policy):
        parser.error("--merge hidden and --policy go together")
    if args.output_file.suffix == ".json" and args.output_file.parent.resolve() == args.input_dir.resolve():
        parser.error(f"--output_file {args.output_file}: in --input_dir, where every *.json is a tree")
    trees = read_trees(args.input_dir)
    problems = Counter((tree.id, tree.question, tree.answer) for tree in trees)
    if several := [id_ for (id_, _, _), count in problems.items() if count > 1]:
        said = f"{len(several)} problems have several trees, all of which count: id {', '.join(several[:5])}"
        print(f"warning: {args.input_dir}: {said}", file=sys.stderr)
    if args.consensus is not None and (unjudged := [tree.id for tree in trees if not tree.root.is_judged()]):
        some = ", ".join(unjudged[:5])
        raise cli.BadInput(f"{len(unjudged)} trees lack judge_value ({some}, ...): run mllm_as_a_judge.py first")
    paths, counts = sample(
        *(trees, args.labels_from, args.threshold, args.max_paths_per_tree, args.seed, args.spelling, args.consensus),
        key_of=key_from_flags(args),
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
