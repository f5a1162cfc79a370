"""Is this answer right? Rules first, an LLM for what rules cannot see.

Where the rules cannot tell and there is no LLM, the verdict is None: undecided. An LLM that cannot decide raises.
Neither ever turns its own trouble into a wrong answer.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import re
import resource
import signal
from collections import Counter
from typing import Any

from pebble import ProcessPool

from mm_prm import cli
from mm_prm.answers import Verdict, compute, glance, normalise
from mm_prm.cli import BadInput, Fault
from mm_prm.prm_format import defuse
from mm_prm.prompts import JUDGE_TEMPLATE
from mm_prm.records import Problem
from mm_prm.servers import ServerPool, parse_endpoints

JUDGES = ("rule", "llm", "rule+llm")
ADVICE = "an LLM judge would decide (--api_endpoint, --judge_model)"
EXAMPLES = 3  # undecided answers that the summary shows
MAX_TOKENS = 2048  # of an LLM's reply: one that only says yes or no stops by itself, one that thinks needs room
# A no before a word is mostly none, as in "Yes, I see no difference", unless the word begins a clause.
_YES_NO = re.compile(r"\b(?:yes|no\b(?!\s+(?!because|since|as|the|they|it|these|this|that|student)\w))\b")


class Undecided(Fault):
    """The LLM that was asked gave no verdict."""


def _start_math_worker() -> None:
    cli.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    import math_verify  # noqa: F401  (now, so that the first comparison is not charged for it)


def _compute(reference: str, answer: str, cpu_seconds: int) -> Verdict:
    """In a worker: the system ends the process when it has used so much CPU time from here on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    return compute(reference, answer)


class MathWorkers:
    """`compute` in processes of their own: computer algebra can block an interpreter for good.

    The limit is CPU time, so that a busy machine changes no verdict; the system ends a worker that exceeds it.
    """

    def __init__(self, cpu_seconds: int = 20):
        self.cpu_seconds = cpu_seconds
        self.pool: ProcessPool | None = None

    async def compute(self, reference: str, answer: str) -> Verdict:
        """unsure when the comparison takes too long or too much memory."""
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPool(max_workers=2, initializer=_start_math_worker, context=context)
        try:
            return await asyncio.wrap_future(self.pool.schedule(_compute, args=(reference, answer, self.cpu_seconds)))
        except (OSError, MemoryError, RecursionError):  # ProcessExpired is an OSError: the worker was ended
            return "unsure"

    def close(self) -> None:
        if self.pool:
            self.pool.stop()
            self.pool.join()


def shortened(text: str, most: int = 80) -> str:
    """A text on one line: its beginning and, where that is not all, its end."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2].rstrip()} ... {line[-most // 2 :].lstrip()}"


# ---------------------------------------------------------------- an LLM's reply


def is_cut(choice: dict[str, Any]) -> bool:
    return choice.get("finish_reason") == "length"


def read_verdict(choice: dict[str, Any]) -> bool | None:
    """The last yes or no of a reply, thoughts left out; None when there is none, or the last one may have been cut off.

    Where the server's template opens <think>, the reply holds the closing tag alone.
    """
    text = (choice["message"].get("content") or "").lower()
    said = re.split(r"<think(?:ing)?>", re.split(r"</think(?:ing)?>", text)[-1])[0]
    found = _YES_NO.findall(re.sub(r"\byes( or |/)no\b", "", said))
    if not found or (is_cut(choice) and not re.fullmatch(r"\W*\w+\W*", said)):
        return None
    return found[-1] == "yes"


def what_came(choice: dict[str, Any]) -> str:
    """Why a reply holds no verdict, with what it says."""
    content, message = choice["message"].get("content"), choice["message"]
    said = shortened(content or message.get("reasoning_content") or message.get("reasoning") or "")
    if is_cut(choice):
        return f"its reply was cut ({said!r}) and will be again: raise --judge_max_tokens"
    if said and not content:
        return f"its reply is all reasoning ({said!r}): the server's reasoning parser does not fit the model"
    return f"neither yes nor no in its reply ({said!r}), nor when asked again: another model may do"


# ---------------------------------------------------------------- the judge of a run


class Judge:
    """One judge for all problems of a run.

    counts: verdicts by source; audited: rules and LLM on the same answers; examples: undecided (reference, answer).
    """

    AUDIT_ONE_IN, AUDIT_AT_MOST = 20, 200
    advice = ADVICE

    def __init__(self, kind: str, llm: ServerPool | None, model: str | None, max_tokens: int = MAX_TOKENS):
        self.kind, self.llm, self.model, self.max_tokens = kind, llm, model, max_tokens
        self.workers = MathWorkers()
        self.counts: Counter[str] = Counter()
        self.examples: list[tuple[str, str]] = []
        self.audited: list[bool] = []
        self.audits: set[asyncio.Task[None]] = set()

    def for_problem(self, problem: Problem) -> ProblemJudge:
        return ProblemJudge(self, problem)

    async def close(self) -> None:
        if self.audits:
            await asyncio.wait(self.audits, timeout=2)  # nobody waits long for a server that is down
        for audit in self.audits:
            audit.cancel()
        self.workers.close()
        if self.llm:
            await self.llm.close()

    async def by_rules(self, reference: str, answer: str) -> Verdict:
        """same, different or unsure, for answers as they were written."""
        reference, answer = normalise(reference), normalise(answer)
        seen = glance(reference, answer)
        if seen != "compute":
            return seen
        return await self.workers.compute(reference, answer)

    async def by_llm(self, problem: Problem, answer: str) -> bool:
        """Is an answer, as it was written, right? Raises Undecided when two replies say neither yes nor no, or one is
        cut; Unreachable when the server stays away."""
        assert self.llm
        question, reference, given = map(defuse, (problem.question, problem.answer, answer))
        prompt = JUDGE_TEMPLATE.format(question=question, reference=reference, answer=given)
        for _ in range(2):
            reply = await self.llm.complete(
                int(problem.key, 16),
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=self.max_tokens,
            )
            choice = reply["choices"][0]
            verdict = read_verdict(choice)
            if verdict is not None:
                return verdict
            if is_cut(choice):
                break
        raise Undecided(f"judge {self.model}: no verdict on answer {shortened(answer)!r}: {what_came(choice)}")

    async def decide(self, problem: Problem, answer: str) -> bool | None:
        """Is an answer, as it was written, right? None where the rules cannot tell and there is no LLM.

        Raises Undecided, Unreachable or Fault; never guesses.
        """
        if self.kind != "llm":
            seen = await self.by_rules(problem.answer, answer)
            if seen != "unsure":
                self.counts["rule"] += 1
                self.audit(problem, answer, seen == "same")
                return seen == "same"
        if not self.llm:
            self.leave_undecided(problem, answer)
            return None
        try:
            verdict = await self.by_llm(problem, answer)
        except Undecided:
            self.leave_undecided(problem, answer)
            raise
        self.counts["llm"] += 1
        if self.kind == "llm":
            self.audit(problem, answer, verdict)
        return verdict

    def leave_undecided(self, problem: Problem, answer: str) -> None:
        self.counts["undecided"] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((problem.answer, answer))

    def share_undecided(self) -> float:
        """Of the answers that were judged, each counted once per problem."""
        asked = sum(self.counts[name] for name in ("rule", "llm", "undecided"))
        return self.counts["undecided"] / asked if asked else 0.0

    def audit(self, problem: Problem, answer: str, verdict: bool) -> None:
        """For a sample of answers, have the other half of the judge look as well; nobody waits for it."""
        ticket = int(hashlib.md5(f"{problem.key} {answer}".encode()).hexdigest(), 16)
        if self.llm and len(self.audits) < self.AUDIT_AT_MOST and ticket % self.AUDIT_ONE_IN == 0:
            self.audits.add(asyncio.ensure_future(self._second_opinion(problem, answer, verdict)))

    async def _second_opinion(self, problem: Problem, answer: str, verdict: bool) -> None:
        try:
            if self.kind == "llm":
                seen = await self.by_rules(problem.answer, answer)
                other = None if seen == "unsure" else seen == "same"
            else:
                other = await self.by_llm(problem, answer)
            self.audited += [] if other is None else [other == verdict]
        except Fault:
            pass  # an audit decides nothing

    def summary(self) -> str:
        """`rule 812, llm 64, cached 90, undecided 0; rules and LLM agree on 40 of 41 sampled answers`.

        Where answers are undecided, their share, some of them and what would help follow in lines of their own.
        """
        parts = ", ".join(f"{name} {self.counts[name]}" for name in ("rule", "llm", "cached", "undecided"))
        agree = f"; rules and LLM agree on {sum(self.audited)} of {len(self.audited)} sampled answers"
        lines = [parts + (agree if self.llm else "")]
        if self.examples:
            hint = "" if self.llm else f": {self.advice}"
            lines += [f"undecided: {self.share_undecided():.1%} of the answers{hint}; for example (reference | answer)"]
            lines += [f"  {shortened(reference)} | {shortened(answer)}" for reference, answer in self.examples]
        return "\n".join(lines)


class ProblemJudge:
    """The judge as the search sees it: `await judge(answer)`. verdicts: of each answer once, None where undecided."""

    def __init__(self, judge: Judge, problem: Problem):
        self.judge, self.problem = judge, problem
        self.verdicts: dict[str, bool | None] = {}
        self.pending: dict[str, asyncio.Task[bool | None]] = {}

    async def __call__(self, answer: str) -> bool | None:
        key = " ".join(answer.split()).removesuffix(".")
        if key in self.verdicts:
            self.judge.counts["cached"] += 1
            return self.verdicts[key]
        if key not in self.pending:
            self.pending[key] = asyncio.ensure_future(self.judge.decide(self.problem, answer))
        verdict = self.verdicts[key] = await self.pending[key]
        return verdict


def add_judge_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every script that judges answers."""
    parser.add_argument("--judge", choices=JUDGES, help="default: rule+llm when --api_endpoint is given, else rule")
    parser.add_argument(
        "--api_endpoint",
        type=parse_endpoints,
        help="base URL(s) of the judge's OpenAI-compatible server; OPENAI_API_KEY is sent if set",
    )
    parser.add_argument("--judge_model", help="name of the judge model there; the paper's is Qwen2.5-72B-Instruct")
    parser.add_argument(
        "--judge_max_tokens",
        type=cli.positive_int,
        default=MAX_TOKENS,
        help="longest reply of the judge model, its thoughts included",
    )


def judge_pool(args: argparse.Namespace, what: str = "judge") -> ServerPool:
    return ServerPool(what, args.api_endpoint, args.max_outage, os.environ.get("OPENAI_API_KEY", "none"))


def judge_from_flags(args: argparse.Namespace) -> Judge:
    """Without --judge: rule+llm when an endpoint is given, else rule. Raises BadInput when a flag is missing."""
    kind = args.judge or ("rule+llm" if args.api_endpoint else "rule")
    if kind == "rule":
        return Judge(kind, None, None)
    if not args.api_endpoint or not args.judge_model:
        raise BadInput(f"--judge {kind} needs --api_endpoint and --judge_model")
    return Judge(kind, judge_pool(args), args.judge_model, args.judge_max_tokens)
