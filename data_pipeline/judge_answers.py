"""Judge pairs of answers: what do the rules make of your references?

    python data_pipeline/judge_answers.py --input_file pairs.jsonl \\
        --output_file verdicts.jsonl --judge rule

One {"reference", "answer"} a line in, with a "question" for an LLM judge; the
same lines in the same order out, with `verdict` (same, different, unsure) and
`by` (rule, math-verify, llm). An LLM is asked as the other scripts ask it; when
it stays away, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm_prm import cli
from mm_prm.answers import glance, normalise
from mm_prm.files import as_object, read_jsonl, write_jsonl
from mm_prm.journal import Journal
from mm_prm.judge import Judge, Undecided, add_judge_flags, judge_from_flags, shortened
from mm_prm.records import Problem, parse_records
from mm_prm.servers import add_outage_flag
from mm_prm.work import work_through

VERDICTS = ("same", "different", "unsure")
EXAMPLES, WIDTH = 3, 60  # of each verdict on the screen, and characters of a text there


@dataclass(frozen=True)
class Pair:
    id: str
    problem: Problem  # its answer is the reference
    answer: str
    record: dict[str, Any]

    @property
    def key(self) -> str:
        texts = [self.problem.question, self.problem.answer, self.answer]
        return hashlib.md5(json.dumps(texts).encode()).hexdigest()


def parse_pair(record: Any) -> dict[str, Any]:
    """Reference and answer may be numbers; an answer may be blank. Raises ValueError that names the field."""
    as_object(record)
    for name in ("reference", "answer"):
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{name}: must be a text or a number")
    if not str(record["reference"]).strip():
        raise ValueError("reference: is blank")
    if not isinstance(record.get("question", ""), str):
        raise ValueError("question: must be a text")
    return record


def read_pairs(path: Path) -> list[Pair]:
    """Raises BadInput that names every bad record."""
    records, bad = parse_records(path, read_jsonl(path), parse_pair)
    if bad or not records:
        raise cli.BadInput(*bad or [f"{path}: holds no record"])
    pairs = []
    for number, record in enumerate(records, 1):
        texts = {"question": record.get("question", ""), "answer": str(record["reference"])}
        problem = Problem(f"line {number}", texts["question"], texts["answer"], [], texts)
        pairs.append(Pair(problem.id, problem, str(record["answer"]), record))
    return pairs


async def by_rules(judge: Judge, pair: Pair) -> dict[str, str]:
    """The verdict of reading alone, or of math-verify where reading cannot value a formula."""
    texts = normalise(pair.problem.answer), normalise(pair.answer)
    seen = glance(*texts)
    if seen != "compute":
        return {"verdict": seen, "by": "rule"}
    return {"verdict": await judge.workers.compute(*texts), "by": "math-verify"}


async def by_llm(judge: Judge, pair: Pair) -> dict[str, str]:
    """A reply that says neither yes nor no leaves the pair unsure. Raises Unreachable or Fault."""
    try:
        return {"verdict": "same" if await judge.by_llm(pair.problem, pair.answer) else "different", "by": "llm"}
    except Undecided:
        return {"verdict": "unsure", "by": "llm"}


class Run:
    """verdicts: by the pair's key; those of an LLM are kept in the journal."""

    def __init__(self, judge: Judge, journal: Journal):
        self.judge, self.journal = judge, journal
        journal.begin({"judge": judge.kind, "model": judge.model})
        self.verdicts = {row["key"]: row["found"] for row in journal.rows[1:]}

    async def decide(self, pair: Pair) -> None:
        if pair.key in self.verdicts:
            return
        found = await by_rules(self.judge, pair) if self.judge.kind != "llm" else None
        if found is None or (found["verdict"] == "unsure" and self.judge.llm):
            found = await by_llm(self.judge, pair)
            self.journal.append({"key": pair.key, "found": found})
        self.verdicts[pair.key] = found

    async def run(self, pairs: list[Pair], concurrency: int) -> None:
        once = list({pair.key: pair for pair in pairs}.values())
        try:
            await work_through(once, self.decide, concurrency, "judging")
        finally:
            await self.judge.close()


def summary(rows: list[dict[str, Any]]) -> str:
    """Counts by verdict and by judge, then a few pairs of each verdict."""
    lines = []
    for name in ("verdict", "by"):
        counts = Counter(row[name] for row in rows)
        lines.append(f"{name}: " + ", ".join(f"{value} {count}" for value, count in counts.most_common()))
    for verdict in VERDICTS:
        chosen = [row for row in rows if row["verdict"] == verdict][:EXAMPLES]
        lines += [f"{verdict}, for example (reference | answer):"] if chosen else []
        for row in chosen:
            lines.append("  " + " | ".join(shortened(str(row[side]), WIDTH) for side in ("reference", "answer")))
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="JSONL of pairs")
    parser.add_argument("--output_file", type=Path, required=True, help="JSONL of pairs with verdicts")
    add_judge_flags(parser)
    parser.add_argument("--concurrency", type=cli.positive_int, default=64, help="pairs in flight at once")
    add_outage_flag(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    pairs = read_pairs(args.input_file)
    with Journal(args.output_file.with_name(f"{args.output_file.name}.partial.jsonl")) as journal:
        run = Run(judge_from_flags(args), journal)
        asyncio.run(run.run(pairs, args.concurrency))
        rows = [{**pair.record, **run.verdicts[pair.key]} for pair in pairs]
        write_jsonl(args.output_file, rows)
        journal.remove()
    print(summary(rows))


if __name__ == "__main__":
    cli.run(main)
