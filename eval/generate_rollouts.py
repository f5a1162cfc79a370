"""Draw N judged solutions for every problem of a benchmark: the candidates of Best-of-N.

    python eval/generate_rollouts.py --benchmark seed --data test.json --output_file rollouts.json \\
        --policy_endpoint http://127.0.0.1:8000/v1 --model policy --judge rule

Finished problems are kept in <output_file>.partial.jsonl until all are done: run the same command to resume.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS

from mm_prm import cli
from mm_prm.judge import JudgeFunction, add_judge_flags, judge_from_flags
from mm_prm.policy import Rollout, add_policy_flags, policy_from_flags
from mm_prm.records import Problem, image_value, write_json, write_jsonl
from mm_prm.work import work_through


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--benchmark", choices=list(BENCHMARKS), default="seed", help="how to read --data")
    parser.add_argument("--data", type=Path, required=True, help="the benchmark's file")
    parser.add_argument("--output_file", type=Path, required=True, help="rollouts, a JSON list")
    parser.add_argument("--num_rollouts", type=cli.positive_int, default=16, help="candidates per problem")
    add_policy_flags(parser)
    add_judge_flags(parser)
    return parser.parse_args()


async def judged(problem: Problem, rollouts: list[Rollout], judge: JudgeFunction) -> dict[str, Any]:
    """The rollouts record of one problem. A rollout without an answer is wrong without asking anybody."""
    answers = [rollout.answer or "" for rollout in rollouts]
    verdicts = {answer: await judge(problem.question, problem.answer, answer) for answer in set(answers) if answer}
    return {
        "id": problem.id,
        "question": problem.question,
        "image_path": image_value(problem.images),
        "answer": problem.answer,
        "solutions": [rollout.text for rollout in rollouts],
        "solutions_splits": [rollout.steps for rollout in rollouts],
        "answers": answers,
        "labels": [int(verdicts.get(answer, False)) for answer in answers],
        "logprobs": [rollout.logprob for rollout in rollouts],
    }


async def generate(args: argparse.Namespace, todo: list[Problem], partial: Path) -> None:
    client = policy_from_flags(args)
    _, judge = judge_from_flags(args)

    async def one(problem: Problem) -> None:
        rollouts = await client.for_problem(problem).draw([], args.num_rollouts, logprobs=True)
        record = await judged(problem, rollouts, judge)
        with partial.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": problem.key, "record": record}) + "\n")

    await work_through(todo, one, client, args.concurrency, "rollouts")


def finished(partial: Path) -> dict[str, dict[str, Any]]:
    """What an interrupted run left, by problem key. A line cut short by a kill or a full disk is dropped for good."""
    if not partial.exists():
        return {}
    rows = []
    for line in partial.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    write_jsonl(partial, rows)
    return {row["key"]: row["record"] for row in rows}


def main() -> None:
    args = parse_args()
    if args.output_file.exists():
        print(f"{args.output_file}: already there")
        return
    problems = BENCHMARKS[args.benchmark](args.data)
    args.output_file.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output_file.with_name(args.output_file.name + ".partial.jsonl")
    done = finished(partial)
    todo = [problem for problem in problems if problem.key not in done]
    print(f"{args.data}: {len(problems)} problems, {len(problems) - len(todo)} already done", flush=True)
    if todo:
        asyncio.run(generate(args, todo, partial))
        done = finished(partial)
    records = [done[problem.key] for problem in problems]
    write_json(args.output_file, records)
    partial.unlink(missing_ok=True)
    right = sum(sum(record["labels"]) for record in records) / sum(len(record["labels"]) for record in records)
    print(f"{args.output_file}: {len(records)} problems x {args.num_rollouts} rollouts, {right:.1%} right")


if __name__ == "__main__":
    cli.run(main)
