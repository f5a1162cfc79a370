"""Is this answer right? Rules first (choice letters, quantities, math-verify), an LLM for what rules cannot see.

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
from decimal import Decimal
from typing import Literal

from pebble import ProcessPool

from mm_prm import cli
from mm_prm.cli import BadInput, Fault
from mm_prm.prompts import JUDGE_TEMPLATE
from mm_prm.records import Problem
from mm_prm.servers import ServerPool, parse_endpoints

JUDGES = ("rule", "llm", "rule+llm")
# same and different are certain; unsure: equal in no way the rules know; compute: math-verify must be asked
Glance = Literal["same", "different", "unsure", "compute"]


class Undecided(Fault):
    """The judge gave no verdict."""


# ---------------------------------------------------------------- rules

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SYMBOLS = {0x3000: " ", 0x3001: ",", 0x3002: ".", 0x2212: "-", 0x00B2: "^2", 0x00B3: "^3", 0x00D7: "\\times "}
_LATEX_NOISE = re.compile(r"\\left|\\right|\\[,;!]|\\\(|\\\)|(?<=\d)\{,\}(?=\d{3})")
_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d+)?")
# A choice letter, perhaps in brackets, perhaps with the choice's text behind it: B, (B), b), Option B, B. 75
_CHOICE = re.compile(r"(?:option |choice )?(?:\(([a-z])\)|([a-z]))(?:[.:)] ?(\S.*)?)?", re.IGNORECASE)
_CHOICES = re.compile(r"\(?[A-H]\)?(?:(?: and |[, ]*)\(?[A-H]\)?)+")
_WORD = re.compile(r"(?<!\\)(?<![a-zA-Z])(?!(?:sin|cos|tan|log|ln|sqrt|pi|or|and)\b)[a-zA-Z]{3,}")
_TERM = re.compile(r"[\d)}][a-zA-Z]")  # 2m, which may be two metres or a term with a variable
_UNITS = {
    alias: unit
    for unit, aliases in {
        "°": r"° ^\circ ^{\circ} \circ degree degrees 度",
        "%": r"% \% percent",
        "mm": "mm millimeter millimeters millimetre millimetres 毫米",
        "cm": "cm centimeter centimeters centimetre centimetres 厘米",
        "m": "m meter meters metre metres 米",
        "km": "km kilometer kilometers kilometre kilometres 千米",
        "g": "g gram grams 克",
        "kg": "kg kilogram kilograms 千克",
        "s": "s second seconds 秒",
        "min": "min minute minutes 分钟",
        "h": "h hour hours 小时",
        "L": "L liter liters litre litres 升",
        "m/s": "m/s",
        "km/h": "km/h",
        "$": r"\$ dollar dollars",
        "元": "元 yuan",
    }.items()
    for alias in aliases.split()
}
_ALIASES = "|".join(re.escape(alias) for alias in sorted(_UNITS, key=len, reverse=True))
_QUANTITY = re.compile(rf"(.*[\d)}}\]])( ?)(square |cubic |sq\.? |平方|立方)?({_ALIASES})(?:\^\{{?([23])\}}?)?")


def normalise(answer: str) -> str:
    """Full-width characters to ASCII; LaTeX boxes, text and spacing removed; spaces folded, a final period dropped."""
    text = answer.translate(_FULL_WIDTH).translate(_SYMBOLS).strip()
    boxed = re.fullmatch(r".*\\boxed\{(.*)\}\W*", text, re.DOTALL)
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}", r" \1", boxed.group(1) if boxed else text)
    text = re.sub(r"√ ?(\w+|\([^()]*\))", r"\\sqrt{\1}", _LATEX_NOISE.sub("", text))
    return re.sub(r"\s+", " ", text).strip("$*` ").rstrip(". ")


def _number(text: str) -> Decimal | None:
    return Decimal(text.replace(",", "")) if any(map(str.isdigit, text)) and _NUMBER.fullmatch(text) else None


def _quantity(text: str) -> tuple[str, str | None]:
    """`12 square cm` -> ("12", "cm^2"). A single letter right behind the number may be a variable and is no unit."""
    found = _QUANTITY.fullmatch(text)
    if not found or (not found.group(2) and re.fullmatch(r"[a-zA-Z]", found.group(4))):
        return text, None
    value, _, power_word, alias, power = found.groups()
    power = power or {"s": "2", "平": "2", "c": "3", "立": "3"}.get((power_word or " ")[0])
    return value, _UNITS[alias] + (f"^{power}" if power else "")


def _choice(text: str) -> tuple[str | None, str]:
    """The choice letter an answer names, and the text behind it."""
    found = _CHOICE.fullmatch(text)
    return ((found.group(1) or found.group(2)).upper(), found.group(3) or "") if found else (None, "")


def glance(reference: str, answer: str) -> Glance:
    """Compare two normalised answers as far as it goes without computer algebra."""
    if not any(map(str.isalnum, answer)):
        return "different"
    if reference.casefold() == answer.casefold():
        return "same"
    if _CHOICES.fullmatch(reference):
        chosen = set(re.findall("[A-H]", answer)) if _CHOICES.fullmatch(answer) or len(answer) == 1 else None
        return "unsure" if chosen is None else "same" if chosen == set(re.findall("[A-H]", reference)) else "different"
    letter, behind = _choice(reference)
    if letter and (reference[:1].isupper() or not reference[0].isalpha()):
        if _choice(answer)[0]:
            return "same" if _choice(answer)[0] == letter else "different"
        return "same" if behind and glance(behind, answer) == "same" else "unsure"
    return _glance_at_quantities(reference, answer)


def _glance_at_quantities(reference: str, answer: str) -> Glance:
    """Units may be left out; different ones are not converted. 75% is 75 and 0.75."""
    (left, left_unit), (right, right_unit) = _quantity(reference), _quantity(answer)
    if left_unit and right_unit and left_unit != right_unit:
        return "unsure"
    numbers = _number(left), _number(right)
    if numbers[0] is not None and numbers[1] is not None:
        percent = [100 if unit == "%" else 1 for unit in (left_unit, right_unit)]
        same = numbers[0] == numbers[1] or numbers[0] * percent[1] == numbers[1] * percent[0]
        return "same" if same else "different"
    if any(map(_WORD.search, (left, right))) or len({bool(_TERM.search(text)) for text in (left, right)}) == 2:
        return "unsure"  # math-verify would read a word as a product of letters, and drop the m of 2m as a unit
    return "compute"


def math_equal(reference: str, answer: str) -> bool:
    """math-verify's verdict on two normalised answers. Raises TimeoutError; what it cannot read is not equal."""
    import math_verify  # takes more than a second to import, and many runs never come here

    left, right = _quantity(reference)[0], _quantity(answer)[0]
    try:
        gold, given = (math_verify.parse(f"${text}$", raise_on_error=True) for text in (left, right))
        return bool(math_verify.verify(gold, given, raise_on_error=True))
    except math_verify.errors.TimeoutException:
        raise TimeoutError from None
    except Exception:  # its grammar or sympy fails on what is no mathematics
        return False


def rule_equal(reference: str, answer: str) -> bool:
    """Whether two answers mean the same by rules alone. Raises TimeoutError when computer algebra takes too long."""
    reference, answer = normalise(reference), normalise(answer)
    seen = glance(reference, answer)
    return math_equal(reference, answer) if seen == "compute" else seen == "same"


def _start_math_worker() -> None:
    cli.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    import math_verify  # noqa: F401  (now, so that the first comparison is not charged for it)


class MathWorkers:
    """math_equal in processes of their own: an answer like 9^{9^{9^9}} can block an interpreter for good."""

    def __init__(self, seconds: float = 20):
        self.seconds, self.pool = seconds, None

    async def equal(self, reference: str, answer: str) -> bool:
        """Raises TimeoutError when the comparison takes too long or too much memory."""
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPool(max_workers=2, initializer=_start_math_worker, context=context)
        try:
            task = self.pool.schedule(math_equal, args=(reference, answer), timeout=self.seconds)
            return await asyncio.wrap_future(task)
        except (MemoryError, RuntimeError, OSError) as error:  # pebble's ProcessExpired is an OSError
            if isinstance(error, asyncio.CancelledError):
                raise
            raise TimeoutError from None

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

    def for_problem(self, problem: Problem, known: dict[str, bool] | None = None) -> ProblemJudge:
        """known: verdicts of an earlier run on this problem, by normalised answer."""
        return ProblemJudge(self, problem, dict(known or {}))

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
        try:
            return "same" if await self.workers.equal(reference, answer) else "unsure"
        except TimeoutError:
            if self.llm:
                return "unsure"
            raise Undecided(f"math-verify took too long to compare {answer!r} with {reference!r}") from None

    async def by_llm(self, problem: Problem, answer: str) -> bool:
        """Raises Undecided when two replies are neither yes nor no, Unreachable when the server stays away."""
        assert self.llm
        prompt = JUDGE_TEMPLATE.format(question=problem.question, reference=problem.answer, answer=answer)
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
        self.counts["undecided"] += 1
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
        verdict = await self.by_llm(problem, answer)
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

    def __init__(self, judge: Judge, problem: Problem, verdicts: dict[str, bool]):
        self.judge, self.problem, self.verdicts = judge, problem, verdicts
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
    return ServerPool("judge", args.api_endpoint, args.max_outage, 300, os.environ.get("OPENAI_API_KEY", "none"))


def judge_from_flags(args: argparse.Namespace) -> Judge:
    """Without --judge: rule+llm when an endpoint is given, else rule. Raises BadInput when a flag is missing."""
    kind = args.judge or ("rule+llm" if args.api_endpoint else "rule")
    if kind == "rule":
        return Judge(kind, None, None)
    if not args.api_endpoint or not args.judge_model:
        raise BadInput(f"--judge {kind} needs --api_endpoint and --judge_model")
    return Judge(kind, judge_pool(args), args.judge_model)
