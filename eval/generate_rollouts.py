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
import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS, DETAILS, add_data_flags, read_benchmark
from mm_prm import __version__, cli
from mm_prm.journal import Journal
from mm_prm.judge import Judge, ProblemJudge, add_judge_flags, judge_from_flags
from mm_prm.policy import PolicyClient, Rollout, add_policy_flags, policy_from_flags
from mm_prm.records import Problem, image_value, outcome_fields, write_json
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


async def judged(problem: Problem, rollouts: list[Rollout], judge: ProblemJudge) -> dict[str, Any]:
    """The rollouts record of one problem. A rollout without an answer is wrong without asking anybody; one on whose
    answer the judge gives no verdict counts as wrong and is marked."""
    answers = [rollout.answer or "" for rollout in rollouts]
    asked = sorted(set(answers) - {""})
    logprobs = [rollout.logprob for rollout in rollouts]
    verdicts = {"": False} | dict(zip(asked, await asyncio.gather(*map(judge, asked)), strict=True))
    return {
        "id": problem.id,
        "question": problem.question,
        "image_path": image_value(problem.images),
        "answer": problem.answer,
        "solutions": [rollout.text for rollout in rollouts],
        "solutions_splits": [rollout.steps for rollout in rollouts],
        "answers": answers,
        **outcome_fields(verdicts[answer] for answer in answers),
        "logprobs": None if None in logprobs else logprobs,
        **{name: problem.record[name] for name in DETAILS if problem.record.get(name) is not None},
    }


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


def make_records(args: argparse.Namespace, problems: list[Problem], journal: Journal) -> list[dict[str, Any]]:
    """All records in the order of the problems; what an interrupted run left in the journal is not made again."""
    done = {row["key"] for row in journal.rows if "key" in row}
    todo = [problem for problem in problems if problem.key not in done]
    source, done_before = args.data or args.benchmark, len(problems) - len(todo)
    print(f"{source}: {len(problems)} problems, {done_before} already done", flush=True)
    asyncio.run(generate(args, todo, journal))
    records = {row["key"]: row["record"] for row in journal.rows if "key" in row}
    return [records[problem.key] for problem in problems]


def main() -> None:
    args = parse_args()
    partial = args.output_file.with_name(args.output_file.name + ".partial.jsonl")
    if args.output_file.exists():
        partial.unlink(missing_ok=True)  # a kill may have come between the two
        print(f"{args.output_file}: already there")
        return
    problems = read_benchmark(args.benchmark, args.data, args.download, args.output_file.parent, args.image_root)
    args.output_file.parent.mkdir(parents=True, exist_ok=True)
    with Journal(partial) as journal:
        records = make_records(args, problems, journal)
        run = {"version": __version__, "benchmark": args.benchmark, "data": str(args.data), **journal.rows[0]["run"]}
        write_json(args.output_file.with_name(f"{args.output_file.stem}_run.json"), run)
        write_json(args.output_file, records)
        journal.remove()
    right = sum(sum(record["labels"]) for record in records) / sum(len(record["labels"]) for record in records)
    undecided = sum(sum(record.get("undecided", ())) for record in records)
    said = f"{right:.1%} right" + (f", {undecided} undecided" if undecided else "")
    print(f"{args.output_file}: {len(records)} problems x {args.num_rollouts} rollouts, {said}")


if __name__ == "__main__":
    cli.run(main)
