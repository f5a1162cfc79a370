"""The sets of rollouts of labels.sh: what goes into them, and what they cost.

    python examples/desk/labels_sets.py first 200 annotate.json first_200.json
    python examples/desk/labels_sets.py account trees-0 --seconds 300
    python examples/desk/labels_sets.py mix mix-0 trees-0 plain8-0
    python examples/desk/labels_sets.py join runs/desk_labels/k100 data

first: the first problems of a seed file. account: rollouts, seconds and single
prefixes of a folder's trees, into its account.json. mix: a folder of trees, the
first 50 problems' searched, the others' plain. join: a policy's dev and test
candidates with the truth of their steps, into its candidates.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "data_pipeline"))
from labels import Prefixes
from step_truth import labelled

from mm_prm import cli
from mm_prm.files import read_json, read_json_list, read_object, write_json
from mm_prm.records import parse_rollouts, read_checked
from mm_prm.trees import read_trees


def account(folder: Path, seconds: float) -> None:
    trees = read_trees(folder / "trees")
    alone, distinct = (sum(part) for part in zip(*(Prefixes(tree.root).singletons() for tree in trees), strict=True))
    drawn = sum(tree.search["rollouts"] for tree in trees)
    write_json(folder / "account.json", {"rollouts": drawn, "seconds": seconds, "singles": alone / distinct})


def mix(folder: Path, searched: Path, plain: Path, count: int = 50) -> None:
    """Links to the searched trees of the first problems, by their files' names, and to the plain ones of the others."""
    names = sorted(path.name for path in (plain / "trees").glob("*.json"))
    (folder / "trees").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        link = folder / "trees" / name
        link.unlink(missing_ok=True)
        os.symlink(((searched if number < count else plain) / "trees" / name).resolve(), link)
    spent = [read_json(part / "account.json")["seconds"] for part in (searched, plain)]
    account(folder, spent[0] * count / len(names) + spent[1] * (1 - count / len(names)))


def first(count: int, seed_file: Path, output: Path) -> None:
    write_json(output, read_json_list(seed_file)[:count])


def join(folder: Path, data: Path) -> None:
    """Dev and test candidates of a policy in one file, with the truth of their steps."""
    records = []
    for part in ("dev", "test"):
        truths = read_object(data / f"{part}_truth.json")
        found = read_checked(folder / f"{part}.json", lambda record: labelled(parse_rollouts(record), truths))  # noqa: B023
        records += [record | {"part": part} for record in found]
    write_json(folder / "candidates.json", records)


def main() -> None:
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(required=True, parser_class=argparse.ArgumentParser)
    for work, names in (
        (first, ("count", "seed_file", "output")),
        (account, ("folder",)),
        (mix, ("folder", "searched", "plain")),
        (join, ("folder", "data")),
    ):
        command = commands.add_parser(work.__name__)
        command.set_defaults(work=work)
        for name in names:
            command.add_argument(name, type=cli.positive_int if name == "count" else Path)
    commands.choices["account"].add_argument("--seconds", type=float, required=True, help="that drawing took")
    args = vars(parser.parse_args())
    args.pop("work")(**args)


if __name__ == "__main__":
    cli.run(main)
