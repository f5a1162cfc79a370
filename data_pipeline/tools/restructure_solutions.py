"""Turn existing solutions into MM-Policy's training data, by an LLM.

    python data_pipeline/tools/restructure_solutions.py \\
        --input_file solutions.json --output_file policy.jsonl \\
        --api_endpoint http://127.0.0.1:8000/v1 \\
        --model Qwen2.5-72B-Instruct

The LLM rewrites each solution in <step> and <answer> tags. A rewriting is kept
when it is in the format and its answer is the record's correct_answer (without
one, the solution's own). Otherwise it is drawn again, --attempts times in all;
then the record goes to <output_file>.rejected.json with the reasons. Every
attempt is kept in <output_file>.partial.jsonl until all are done: run the same
command to resume.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from mm_prm import cli
from mm_prm.dataset_files import add_dataset_flags, dataset_row, write_dataset
from mm_prm.fields import image_value
from mm_prm.files import read_json_list, read_jsonl, write_json
from mm_prm.journal import Journal
from mm_prm.judge import JUDGES, MAX_TOKENS, Judge, Undecided, judge_pool
from mm_prm.policy import read_choice
from mm_prm.prm_format import defuse, parse_solution, render_solution
from mm_prm.prompts import RESTRUCTURE_TEMPLATE, policy_prompt
from mm_prm.records import Problem, parse_problem, parse_records
from mm_prm.servers import Refused, add_outage_flag, parse_endpoints
from mm_prm.work import work_through

TAGGED = re.compile(r"<step>.*?<answer>.*?</answer>", re.DOTALL)
ELEMENT = re.compile(r"<(step|answer)>(?:(?!</?(?:step|answer)>).)*</\1>", re.DOTALL)


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="solutions: a JSON list, or *.jsonl")
    parser.add_argument("--solution_field", default="solution", help="field of a record that holds its solution")
    add_dataset_flags(parser, "mm_policy")
    parser.add_argument("--skip_invalid", action="store_true", help="leave bad records out and list them")
    parser.add_argument("--api_endpoint", type=parse_endpoints, required=True, help="base URL(s) of the LLM's server")
    parser.add_argument("--model", required=True, help="name of the LLM there; OPENAI_API_KEY is sent if set")
    parser.add_argument(
        "--judge", choices=JUDGES, default="rule", help="who sees that the answer is kept; llm: --model"
    )
    parser.add_argument(
        "--judge_max_tokens", type=cli.positive_int, default=MAX_TOKENS, help="longest reply when it judges"
    )
    parser.add_argument("--attempts", type=cli.positive_int, default=3, help="rewritings drawn before one is rejected")
    parser.add_argument("--max_new_tokens", type=cli.positive_int, default=4096, help="longest rewriting in tokens")
    parser.add_argument("--temperature", type=cli.non_negative, default=0.7, help="sampling temperature")
    parser.add_argument("--concurrency", type=cli.positive_int, default=256, help="solutions in flight at once")
    add_outage_flag(parser)
    parser.add_argument("--seed", type=int, default=0, help="decides the LLM's draws")
    return parser.parse_args()


def parse_record(row: Any, folder: Path, solution_field: str) -> Problem:
    """One solution as a problem whose `answer` is the one to keep. Raises ValueError that names the field."""
    if isinstance(row, dict):
        solution = row.get(solution_field)
        if not isinstance(solution, str) or not solution.strip():
            raise ValueError(f"field {solution_field!r} is missing, blank or not text")
        if row.get("correct_answer") in (None, ""):
            _, answer = parse_solution(solution, "paragraphs")
            if answer is None:
                raise ValueError("field 'correct_answer' is missing, and the solution gives no answer")
            row = {**row, "correct_answer": answer}
    return parse_problem(row, folder)


def read_solutions(args: argparse.Namespace) -> tuple[list[Problem], list[str]]:
    """The solutions and a line per record left out. Several of one problem may share its id."""
    read = read_jsonl if args.input_file.suffix == ".jsonl" else read_json_list
    seen: set[str] = set()

    def parse(row: Any) -> Problem:
        problem = parse_record(row, args.input_file.parent, args.solution_field)
        if problem.key in seen:
            raise ValueError("an earlier record is the same")
        seen.add(problem.key)
        return problem

    problems, bad = parse_records(args.input_file, read(args.input_file), parse)
    if not problems or (bad and not args.skip_invalid):
        raise cli.BadInput(*bad or [f"{args.input_file}: holds no record"])
    return problems, bad


class Flaw(Exception):
    """What is wrong with a rewriting."""


def read_reply(choice: dict[str, Any]) -> tuple[list[str], str]:
    """The steps and the answer of a rewriting. Raises Flaw."""
    reply = read_choice(choice, "tags")
    if reply.answer is None:
        raise Flaw("no answer" + (", cut at --max_new_tokens" if reply.cut else ""))
    tagged = TAGGED.search(reply.text)
    if len(reply.steps) < 2 or not tagged:
        raise Flaw("no steps")
    if ELEMENT.sub("", tagged.group()).strip():  # reasoning that would be lost
        raise Flaw("text between the tags, or tags that do not match")
    return reply.steps[:-1], reply.answer


class Restructuring:
    """One run. tried: the attempts at each solution, by key; the last one has a `text` or all have a `flaw`."""

    def __init__(self, args: argparse.Namespace, journal: Journal):
        self.args, self.journal, self.requests = args, journal, 0
        self.pool = judge_pool(args, "LLM")
        llm = None if args.judge == "rule" else self.pool
        self.judge = Judge(args.judge, llm, args.model, args.judge_max_tokens)
        self.judge.advice = "an LLM judge would decide (--judge rule+llm)"
        run = {name: getattr(args, name) for name in ("model", "temperature", "max_new_tokens", "judge", "seed")}
        self.tried: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        journal.begin(run)
        for row in journal.rows[1:]:
            self.tried[row["key"]].append(row)

    def text(self, problem: Problem) -> str | None:
        """The solution in steps, None while there is none."""
        tried = self.tried[problem.key]
        return tried[-1].get("text") if tried else None

    def is_decided(self, problem: Problem) -> bool:
        return self.text(problem) is not None or len(self.tried[problem.key]) >= self.args.attempts

    async def restructure(self, problem: Problem) -> None:
        """Try until a rewriting is good or the attempts are used up. Raises Unreachable or Fault."""
        while not self.is_decided(problem):
            row = {"key": problem.key, **await self.attempt(problem, len(self.tried[problem.key]))}
            self.journal.append(row)
            self.tried[problem.key].append(row)

    async def attempt(self, problem: Problem, number: int) -> dict[str, str]:
        question, solution = map(defuse, (problem.question, problem.record[self.args.solution_field]))
        prompt = RESTRUCTURE_TEMPLATE.format(question=question, solution=solution)
        digest = hashlib.md5(f"{self.args.seed} {problem.key} {number}".encode()).digest()
        try:
            reply = await self.pool.complete(
                int(problem.key, 16),
                model=self.args.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=self.args.temperature,
                max_tokens=self.args.max_new_tokens,
                seed=int.from_bytes(digest[:6], "big"),
            )
            self.requests += 1
            steps, answer = read_reply(reply["choices"][0])
            if not (verdict := await self.judge.for_problem(problem)(answer)):
                said = "not" if verdict is False else "and no rule tells whether that is"
                raise Flaw(f"the answer is {answer!r}, {said} {problem.answer!r}")
        except (Flaw, Refused, Undecided) as error:
            return {"flaw": str(error)}
        return {"text": render_solution(steps, answer)}

    async def run(self, problems: list[Problem]) -> None:
        todo = [problem for problem in problems if not self.is_decided(problem)]
        done = len(problems) - len(todo)
        print(f"{self.args.input_file}: {len(problems)} solutions, {done} already done", flush=True)

        def status(seconds: float) -> str:
            return f"{self.requests / max(seconds, 1e-9):.1f} replies/s"

        try:
            await work_through(todo, self.restructure, self.args.concurrency, "restructuring", status)
        finally:
            await self.judge.close()
            await self.pool.close()
            print(f"{self.requests} replies of {self.args.model}; judge: {self.judge.summary()}", flush=True)


def training_row(problem: Problem, solution: str, image_root: Path) -> dict[str, Any]:
    """One line of the JSONL; the human turn is the text that the policy is sent when it is served."""
    prompt = "<image>\n" * len(problem.images) + policy_prompt(defuse(problem.question))
    return dataset_row(problem.id, problem.images, image_root, prompt, solution)


def write_results(run: Restructuring, problems: list[Problem]) -> None:
    """The training JSONL last: when it is there, the other files are. Raises Fault when nothing was kept."""
    args, rejected_file = run.args, run.args.output_file.with_name(f"{run.args.output_file.name}.rejected.json")
    rows, rejected = [], []
    for problem in problems:
        text = run.text(problem)
        if text is not None:
            rows.append(training_row(problem, text, args.image_root))
        else:  # a record that can be given to another LLM as it stands
            flaws = [row["flaw"] for row in run.tried[problem.key]]
            rejected.append({**problem.record, "image_path": image_value(problem.images), "rejected": flaws})
    write_json(rejected_file, rejected)
    if not rows:
        [(flaw, _)] = Counter(record["rejected"][-1] for record in rejected).most_common(1)
        raise cli.Fault(f"all {len(rejected)} solutions were rejected, see {rejected_file}; most often: {flaw}")
    write_dataset(args, rows)
    print(f"{rejected_file}: {len(rejected)} rejected")


def main() -> None:
    args = parse_args()
    partial = args.output_file.with_name(f"{args.output_file.name}.partial.jsonl")
    if args.output_file.exists():
        partial.unlink(missing_ok=True)  # a kill came between writing the file and tidying up
        print(f"{args.output_file}: already there")
        return
    problems, skipped = read_solutions(args)
    for line in skipped:
        print(f"skipped: {line}")
    with Journal(partial) as journal:
        run = Restructuring(args, journal)
        asyncio.run(run.run(problems))
        write_results(run, problems)
        journal.remove()


if __name__ == "__main__":
    cli.run(main)
