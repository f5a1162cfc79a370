"""Is this answer right? Rules first, an LLM for what rules cannot see.

A judge that cannot decide raises; it never turns its own trouble into a wrong answer.
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

from pebble import ProcessPool

from mm_prm import cli
from mm_prm.answers import Glance, Verdict, compute, glance, normalise
from mm_prm.cli import BadInput, Fault
from mm_prm.prm_format import defuse
from mm_prm.prompts import JUDGE_TEMPLATE
from mm_prm.records import Problem
from mm_prm.servers import ServerPool, parse_endpoints

JUDGES = ("rule", "llm", "rule+llm")


class Undecided(Fault):
    """The judge gave no verdict."""


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


# ---------------------------------------------------------------- the judge of a run


class Judge:
    """One judge for all problems of a run. counts: verdicts by source; audited: rules and LLM on the same answers."""

    AUDIT_ONE_IN, AUDIT_AT_MOST = 20, 200

    def __init__(self, kind: str, llm: ServerPool | None, model: str | None):
        self.kind, self.llm, self.model = kind, llm, model
        self.workers = MathWorkers()
        self.counts: Counter[str] = Counter()
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

    async def by_rules(self, reference: str, answer: str) -> Glance:
        """same, different or unsure, for normalised answers."""
        seen = glance(reference, answer)
        if seen != "compute":
            return seen
        return await self.workers.compute(reference, answer)

    async def by_llm(self, problem: Problem, answer: str) -> bool:
        """Raises Undecided when two replies are neither yes nor no, Unreachable when the server stays away."""
        assert self.llm
        question, reference, given = map(defuse, (problem.question, problem.answer, answer))
        prompt = JUDGE_TEMPLATE.format(question=question, reference=reference, answer=given)
        for _ in range(2):
            reply = await self.llm.complete(
                int(problem.key, 16),
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=8,
            )
            word = re.match(r"\W*(yes|no)\b", (reply["choices"][0]["message"]["content"] or "").lower())
            if word:
                return word.group(1) == "yes"
        raise Undecided(f"judge {self.model}: neither yes nor no about answer {answer!r}")

    async def decide(self, problem: Problem, answer: str) -> bool:
        """Is a normalised answer right? Raises Undecided, Unreachable or Fault; never guesses."""
        reference = normalise(problem.answer)
        if self.kind != "llm":
            seen = await self.by_rules(reference, answer)
            if seen != "unsure" or not self.llm:
                self.counts["rule"] += 1
                self.audit(problem, answer, seen == "same")
                return seen == "same"
        try:
            verdict = await self.by_llm(problem, answer)
        except Undecided:
            self.counts["undecided"] += 1
            raise
        self.counts["llm"] += 1
        if self.kind == "llm":
            self.audit(problem, answer, verdict)
        return verdict

    def audit(self, problem: Problem, answer: str, verdict: bool) -> None:
        """For a sample of answers, have the other half of the judge look as well; nobody waits for it."""
        ticket = int(hashlib.md5(f"{problem.key} {answer}".encode()).hexdigest(), 16)
        if self.llm and len(self.audits) < self.AUDIT_AT_MOST and ticket % self.AUDIT_ONE_IN == 0:
            self.audits.add(asyncio.ensure_future(self._second_opinion(problem, answer, verdict)))

    async def _second_opinion(self, problem: Problem, answer: str, verdict: bool) -> None:
        try:
            if self.kind == "llm":
                other = await self.by_rules(normalise(problem.answer), answer) == "same"
            else:
                other = await self.by_llm(problem, answer)
            self.audited.append(other == verdict)
        except Fault:
            pass  # an audit decides nothing

    def summary(self) -> str:
        """`rule 812, llm 64, cached 90, undecided 0; rules and LLM agree on 40 of 41 sampled answers`."""
        parts = [f"{name} {self.counts[name]}" for name in ("rule", "llm", "cached", "undecided")]
        agree = f"; rules and LLM agree on {sum(self.audited)} of {len(self.audited)} sampled answers"
        return ", ".join(parts) + (agree if self.llm else "")


class ProblemJudge:
    """The judge as the search sees it: `await judge(answer)`. verdicts: by normalised answer, each decided once."""

    def __init__(self, judge: Judge, problem: Problem):
        self.judge, self.problem = judge, problem
        self.verdicts: dict[str, bool] = {}
        self.pending: dict[str, asyncio.Task[bool]] = {}

    async def __call__(self, answer: str) -> bool:
        answer = normalise(answer)
        if answer in self.verdicts:
            self.judge.counts["cached"] += 1
            return self.verdicts[answer]
        if answer not in self.pending:
            self.pending[answer] = asyncio.ensure_future(self.judge.decide(self.problem, answer))
        verdict = self.verdicts[answer] = await self.pending[answer]
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


def judge_pool(args: argparse.Namespace) -> ServerPool:
    return ServerPool("judge", args.api_endpoint, args.max_outage, os.environ.get("OPENAI_API_KEY", "none"))


def judge_from_flags(args: argparse.Namespace) -> Judge:
    """Without --judge: rule+llm when an endpoint is given, else rule. Raises BadInput when a flag is missing."""
    kind = args.judge or ("rule+llm" if args.api_endpoint else "rule")
    if kind == "rule":
        return Judge(kind, None, None)
    if not args.api_endpoint or not args.judge_model:
        raise BadInput(f"--judge {kind} needs --api_endpoint and --judge_model")
    return Judge(kind, judge_pool(args), args.judge_model)
