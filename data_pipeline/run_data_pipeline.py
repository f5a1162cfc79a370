"""Turn seed problems into annotated trees, one JSON file per problem.

    python data_pipeline/run_data_pipeline.py \\
        --input_file chunks/questions_part_1.json --output_dir trees \\
        --policy_endpoint http://127.0.0.1:8000/v1 --model policy --judge rule

OmegaPRM against a policy server and a judge. A tree that is there is never made
again, and an unfinished one goes on where it was: run the same command to
resume. Several processes may share an output folder. run_data_pipeline.sh also
starts the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from omegaprm import Adaptive, NoneDecided, SearchParams
from partial_tree import PartialTree

from mm_prm import __version__, cli
from mm_prm.journal import PARTIAL, Journal, remove_if_empty
from mm_prm.judge import ADVICE, Judge, add_judge_flags, judge_from_flags
from mm_prm.policy import PolicyClient, Sampling, add_policy_flags, policy_from_flags
from mm_prm.records import Problem, read_seed
from mm_prm.trees import Tree, read_tree, write_tree
from mm_prm.work import work_through

SEARCH_HELP = {
    "max_search_count": "searches per problem at most; 0: only the question's own rollouts are drawn",
    "rollout_budget": "rollouts per problem at most, checked between searches",
    "c_puct": "weight of exploration",
    "alpha": "Q falls by this factor as mc_value goes from 1 to 0",
    "beta": "Q falls by this factor for every length_scale words",
    "length_scale": "words",
}


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="seed file or chunk")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the trees")
    parser.add_argument("--log_file", type=Path, help="one JSON line per finished or failed tree is appended here")
    parser.add_argument(
        "--checkpoint_every",
        type=cli.whole_number,
        default=10,
        metavar="K",
        help="save an unfinished tree every K searches and when the run is stopped; 0: never",
    )
    parser.add_argument("--skip_invalid", action="store_true", help="leave bad records out and list them")
    add_policy_flags(parser)
    add_judge_flags(parser)
    parser.add_argument(
        "--num_rollouts",
        type=rollout_range,
        default="16",
        metavar="N[:MOST]",
        help="rollouts drawn from every new state; 4:16 draws 4, and 4 more up to 16 while they are neither all right, "
        "all wrong, nor enough for --half_width",
    )
    parser.add_argument(
        "--half_width",
        type=cli.fraction,
        default=Adaptive.half_width,
        help="with N:MOST, half the width of a value's 95%% interval that is enough",
    )
    kinds = {"max_search_count": cli.whole_number, "rollout_budget": cli.positive_int, "length_scale": cli.positive_int}
    kinds |= {"alpha": cli.fraction, "beta": cli.fraction}
    for item in fields(SearchParams):
        if item.name in SEARCH_HELP:
            kind = kinds.get(item.name, cli.non_negative)
            parser.add_argument(f"--{item.name}", type=kind, default=item.default, help=SEARCH_HELP[item.name])
    return parser.parse_args()


def rollout_range(text: str) -> tuple[int, int]:
    """argparse type: `16`, or `4:16`."""
    first, _, last = text.partition(":")
    low, high = cli.positive_int(first), cli.positive_int(last or first)
    if low > high:
        raise argparse.ArgumentTypeError(f"must be N or N:MOST with N at most MOST, got {text}")
    return low, high


def search_params(args: argparse.Namespace) -> SearchParams:
    few, most = args.num_rollouts
    own = {name: getattr(args, name) for name in SEARCH_HELP}
    return SearchParams(few, **own, adaptive=Adaptive(most, args.half_width) if most > few else None)


def as_recorded(params: SearchParams) -> dict[str, Any]:
    """For the tree's file; `adaptive` where it is used."""
    return {name: value for name, value in asdict(params).items() if value is not None}


class Annotation:
    """One run over a chunk: what all problems share, and what is counted for the bar, the log and the summary."""

    def __init__(self, args: argparse.Namespace, client: PolicyClient, judge: Judge):
        self.args, self.client, self.judge = args, client, judge
        self.params = search_params(args)
        self.run: dict[str, Any] = {
            "policy": args.model,
            "judge": judge.kind,
            "judge_model": args.judge_model,
            "parameters": {**as_recorded(self.params), **asdict(client.sampling), **asdict(client.dialect)},
            "seed": args.seed,
            "version": __version__,
        }
        self.root_values: Counter[float] = Counter()
        self.searched = self.unanswered = self.undecided = self.labels = 0

    async def annotate(self, problem: Problem) -> None:
        """Make one tree file. Raises Busy when another process is at it; Fault leaves the partial tree for a rerun."""
        started, path = time.monotonic(), self.args.output_dir / f"{problem.key}.json"
        with Journal(partial_file(self.args, problem.key)) as journal:
            if not path.exists():  # else another process has made it meanwhile
                try:
                    tree = await self.grow(problem, journal)
                except cli.Fault as error:
                    hint = f" (reference {problem.answer!r}): {ADVICE}" if isinstance(error, NoneDecided) else ""
                    self.log(id=problem.id, unfinished=f"{error}{hint}")
                    raise cli.Fault(f"{error}{hint}") from None
                write_tree(path, tree)
                self.finished(tree, time.monotonic() - started)
            journal.clear()

    async def grow(self, problem: Problem, journal: Journal) -> Tree:
        every = self.args.checkpoint_every
        partial = PartialTree(problem, self.client, self.judge, self.params, journal, every)
        partial.resume(self.run)
        search = partial.search
        try:
            root = await search.run()
        except BaseException:
            if every:
                with contextlib.suppress(OSError):  # what stopped the search is said, perhaps this very full disk
                    partial.save()
            raise
        counts = {"searches": search.searches, "rollouts": search.rollouts, "unanswered": search.unanswered}
        counts |= {"undecided": search.undecided} if search.undecided else {}
        return Tree(problem.id, problem.question, problem.answer, problem.images, root, {**counts, **self.run})

    def finished(self, tree: Tree, seconds: float) -> None:
        labels = sum(1 for _ in tree.root.walk()) - 1  # every state below the root gives an edge its MC value
        self.root_values[tree.root.mc_value] += 1
        self.searched += tree.search["rollouts"]
        self.unanswered += tree.search["unanswered"]
        self.undecided += tree.search.get("undecided", 0)
        self.labels += labels
        names = ("searches", "rollouts", "unanswered", "undecided")
        counts = {name: tree.search[name] for name in names if name in tree.search}
        self.log(id=tree.id, mc_value=tree.root.mc_value, **counts, labels=labels, seconds=round(seconds, 2))

    def log(self, **line: Any) -> None:
        if self.args.log_file:
            with cli.naming(self.args.log_file), self.args.log_file.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line, ensure_ascii=False) + "\n")

    def status(self, seconds: float) -> str:
        rate = 1 / max(seconds, 1e-9)
        counts = self.judge.counts
        mix = "/".join(str(counts[name]) for name in ("rule", "llm", "cached"))
        return (
            f"{self.client.rollouts * rate:.0f} rollouts/s, {self.client.tokens * rate:.0f} tokens/s, "
            f"{self.labels} labels, judge rule/llm/cached {mix}, {self.judge.share_undecided():.1%} undecided"
        )

    def summary(self) -> str:
        """The run in a few lines: trees by root MC value, rollouts, the judge."""
        lines = [f"{sum(self.root_values.values())} trees, {self.labels} labels, {self.searched} rollouts"]
        lines[0] += f" ({self.unanswered} without an answer, {self.undecided} undecided)"
        lines.append("root mc_value: " + ", ".join(f"{name} {count}" for name, count in self.root_histogram().items()))
        return "\n".join([*lines, f"judge: {self.judge.summary()}"])

    def root_histogram(self) -> dict[str, int]:
        """Trees by root MC value; only those strictly between 0 and 1 give paths."""
        names = ["0", "0-0.25", "0.25-0.5", "0.5-0.75", "0.75-1", "1"]
        histogram = dict.fromkeys(names, 0)
        for mc_value, count in self.root_values.items():
            inside = names[1 + min(int(4 * mc_value), 3)]
            histogram["0" if mc_value == 0 else "1" if mc_value == 1 else inside] += count
        return histogram


def partial_file(args: argparse.Namespace, key: str) -> Path:
    return args.output_dir / PARTIAL / f"{key}.jsonl"


async def annotate(args: argparse.Namespace, todo: list[Problem]) -> None:
    client, judge = policy_from_flags(args), judge_from_flags(args)
    annotation = Annotation(args, client, judge)
    try:
        await work_through(todo, annotation.annotate, args.concurrency, "annotating", annotation.status)
    finally:
        await client.pool.close()
        await judge.close()
        print(annotation.summary(), flush=True)


def warn_of_others(args: argparse.Namespace, path: Path) -> None:
    """A line where a tree that is there already was drawn in another way, or is none: stage 3 would take all."""
    try:
        before = read_tree(path).search
    except cli.BadInput as error:
        print(f"warning: {error}", file=sys.stderr)
        return
    before = {**before, **(before.get("parameters") or {})}
    sampling = {name: getattr(args, name) for name in Sampling.__dataclass_fields__}
    now = {"policy": args.model, "seed": args.seed, **as_recorded(search_params(args)), **sampling}
    if other := [name for name, value in now.items() if before.get(name) not in (None, value)]:
        print(f"warning: {path} was made with another --{', --'.join(other)}", file=sys.stderr)


def main() -> None:
    args = parse_args()
    problems, skipped = read_seed(args.input_file, args.skip_invalid)
    for line in skipped:
        print(f"skipped: {line}")
    cli.end_of_check()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.log_file:
        args.log_file.parent.mkdir(parents=True, exist_ok=True)
    todo = [problem for problem in problems if not (args.output_dir / f"{problem.key}.json").exists()]
    print(f"{args.input_file}: {len(problems)} problems, {len(problems) - len(todo)} trees already there", flush=True)
    there = sorted({problem.key for problem in problems} - {problem.key for problem in todo})
    for key in there[:1]:  # one stands for all of its run
        warn_of_others(args, args.output_dir / f"{key}.json")
    for key in there:
        partial_file(args, key).unlink(missing_ok=True)  # a kill came between writing the tree and tidying up
    try:
        if todo:
            asyncio.run(annotate(args, todo))
    finally:
        remove_if_empty(args.output_dir / PARTIAL)


if __name__ == "__main__":
    cli.run(main)
