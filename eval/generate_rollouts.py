"""Draw N judged solutions for every problem: the candidates of Best-of-N.

    python eval/generate_rollouts.py --benchmark seed --data test.json \\
        --output_file rollouts.json --policy_endpoint http://127.0.0.1:8000/v1 \\
        --model policy --judge rule

`python eval/benchmarks.py --list` says what --benchmark can be and which files
it needs.

How they were drawn and judged stands beside them, in rollouts_run.json.
Finished problems are kept in <output_file>.partial.jsonl until all are done:
run the same command to resume.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drawn import judged, make_file

from benchmarks import BENCHMARKS, add_data_flags
from mm_prm import cli
from mm_prm.journal import Journal
from mm_prm.judge import Judge, add_judge_flags, judge_from_flags
from mm_prm.policy import PolicyClient, add_policy_flags, policy_from_flags
from mm_prm.records import Problem
from mm_prm.work import work_through


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--benchmark", choices=list(BENCHMARKS), default="seed", help="how to read --data")
    add_data_flags(parser)
    parser.add_argument("--output_file", type=Path, required=True, help="rollouts, a JSON list")
    parser.add_argument("--num_rollouts", type=cli.positive_int, default=16, help="candidates per problem")
    add_policy_flags(parser)
    add_judge_flags(parser)
    return parser.parse_args()


def run_row(args: argparse.Namespace, client: PolicyClient, judge: Judge) -> dict[str, Any]:
    """How candidates are drawn and judged: a journal of others is not gone on with."""
    run = {"num_rollouts": args.num_rollouts, "judge": judge.kind, "judge_model": judge.model, "seed": args.seed}
    return run | {"policy": client.model, **asdict(client.sampling), **asdict(client.dialect)}


async def generate(args: argparse.Namespace, todo: list[Problem], journal: Journal) -> None:
    client, judge = policy_from_flags(args), judge_from_flags(args)
    journal.begin(run_row(args, client, judge))

    async def one(problem: Problem) -> None:
        rollouts = await client.for_problem(problem).draw([], args.num_rollouts, logprobs=True)
        record = await judged(problem, rollouts, judge.for_problem(problem))
        journal.append({"key": problem.key, "record": record})
        journal.rows.append({"key": problem.key, "record": record})

    def status(seconds: float) -> str:
        return f"{client.tokens / max(seconds, 1e-9):.0f} tokens/s, {judge.share_undecided():.1%} of answers undecided"

    try:
        await work_through(todo, one, args.concurrency, "rollouts", status)
    finally:
        await client.pool.close()
        await judge.close()
        print(f"judge: {judge.summary()}", flush=True)


def main() -> None:
    args = parse_args()
    made = make_file(args, generate)
    if made is None:
        return
    records, _ = made
    right = sum(sum(record["labels"]) for record in records) / sum(len(record["labels"]) for record in records)
    undecided = sum(sum(record.get("undecided", ())) for record in records)
    said = f"{right:.1%} right" + (f", {undecided} undecided" if undecided else "")
    print(f"{args.output_file}: {len(records)} problems x {args.num_rollouts} rollouts, {said}")


if __name__ == "__main__":
    cli.run(main)
