"""Turn seed problems into annotated trees: OmegaPRM against a policy server and a judge, one JSON file per problem.

    python data_pipeline/run_data_pipeline.py --input_file chunks/questions_part_1.json --output_dir trees \\
        --policy_endpoint http://127.0.0.1:8000/v1 --model policy --judge rule

A tree that is there is never made again: run the same command to resume. run_data_pipeline.sh also starts the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from omegaprm import Search, SearchParams

from mm_prm import __version__, cli
from mm_prm.judge import add_judge_flags, judge_from_flags
from mm_prm.policy import add_policy_flags, policy_from_flags
from mm_prm.records import Problem, Tree, read_seed, write_json
from mm_prm.work import work_through

SEARCH_HELP = {
    "num_rollouts": "rollouts drawn from every new state",
    "max_search_count": "searches per problem at most",
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
    parser.add_argument("--log_file", type=Path, help="one JSON line per finished tree is appended here")
    parser.add_argument("--skip_invalid", action="store_true", help="leave bad records out and list them")
    add_policy_flags(parser)
    add_judge_flags(parser)
    for item in fields(SearchParams):
        kind = cli.positive_int if isinstance(item.default, int) else float
        parser.add_argument(f"--{item.name}", type=kind, default=item.default, help=SEARCH_HELP[item.name])
    return parser.parse_args()


def summary(tree: Tree, seconds: float) -> dict[str, Any]:
    """The log's line about a finished tree."""
    return {
        "id": tree.id,
        "mc_value": tree.root.mc_value,
        "searches": tree.search["searches"],
        "rollouts": tree.search["rollouts"],
        "seconds": round(seconds, 2),
    }


async def annotate(args: argparse.Namespace, todo: list[Problem]) -> None:
    client = policy_from_flags(args)
    judge_name, judge = judge_from_flags(args)
    params = SearchParams(**{item.name: getattr(args, item.name) for item in fields(SearchParams)})
    run = {
        "policy": args.model,
        "judge": judge_name,
        "judge_model": args.judge_model,
        "parameters": {**asdict(params), **asdict(client.sampling), "prefix_mode": args.prefix_mode},
        "seed": args.seed,
        "version": __version__,
    }

    async def one(problem: Problem) -> None:
        started = time.monotonic()
        policy = client.for_problem(problem)

        async def draw(prefix: list[str], n: int) -> list[tuple[list[str], str | None]]:
            return [(rollout.steps, rollout.answer) for rollout in await policy.draw(prefix, n)]

        async def is_right(answer: str) -> bool:
            return await judge(problem.question, problem.answer, answer)

        search = Search(draw, is_right, params)
        root = await search.run()
        record = {"searches": search.searches, "rollouts": search.rollouts, **run}
        tree = Tree(problem.id, problem.question, problem.answer, problem.images, root, record)
        write_json(args.output_dir / f"{problem.key}.json", tree.to_dict())
        if args.log_file:
            with args.log_file.open("a", encoding="utf-8") as log:
                log.write(json.dumps(summary(tree, time.monotonic() - started)) + "\n")

    await work_through(todo, one, client, args.concurrency, "annotating")


def main() -> None:
    args = parse_args()
    problems, skipped = read_seed(args.input_file, args.skip_invalid)
    for line in skipped:
        print(f"skipped: {line}")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.log_file:
        args.log_file.parent.mkdir(parents=True, exist_ok=True)
    todo = [problem for problem in problems if not (args.output_dir / f"{problem.key}.json").exists()]
    print(f"{args.input_file}: {len(problems)} problems, {len(problems) - len(todo)} trees already there", flush=True)
    if todo:
        asyncio.run(annotate(args, todo))


if __name__ == "__main__":
    cli.run(main)
