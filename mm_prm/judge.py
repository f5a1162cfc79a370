"""Is this answer right? Rules first (math-verify, choice letters), an LLM for what rules cannot see.

A judge that cannot decide raises; it never turns its own trouble into a wrong answer.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import lru_cache

import openai

from mm_prm.cli import BadInput, Fault
from mm_prm.policy import parse_endpoints, with_retries
from mm_prm.prompts import JUDGE_TEMPLATE

JUDGES = ("rule", "llm", "rule+llm")
JudgeFunction = Callable[[str, str, str], Awaitable[bool]]  # question, reference, answer -> right?

# A choice letter, perhaps in brackets, perhaps with the choice's text behind it: B, (B), b), Option B, B. 75
_CHOICE = re.compile(r"(?:option |choice )?\(?([a-z])(?:\)|[.:)] ?\S.*|[.:)])?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d+)?")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x3002: 0x2E, 0x2212: 0x2D}


class Undecided(Fault):
    """The judge gave no verdict."""


def normalise(answer: str) -> str:
    """Full-width characters to ASCII; LaTeX boxes, text and dollars removed; spaces folded, a final period dropped."""
    text = answer.translate(_FULL_WIDTH).strip()
    boxed = re.fullmatch(r".*\\boxed\{(.*)\}\W*", text, re.DOTALL)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", boxed.group(1) if boxed else text)
    return re.sub(r"\s+", " ", text.strip("$ ")).rstrip(". ")


def _number(text: str) -> Decimal | None:
    return Decimal(text.replace(",", "")) if any(map(str.isdigit, text)) and _NUMBER.fullmatch(text) else None


@lru_cache(maxsize=100_000)
def rule_equal(reference: str, answer: str) -> bool:
    """Whether two answers mean the same by rules: same text, same number, same choice letter, or math-verify."""
    reference, answer = normalise(reference), normalise(answer)
    if not answer:
        return False
    if reference.casefold() == answer.casefold():
        return True
    if re.fullmatch(r"[A-Z]", reference):
        chosen = _CHOICE.fullmatch(answer)
        return bool(chosen) and chosen.group(1).upper() == reference
    numbers = _number(reference), _number(answer)
    if None not in numbers:
        return numbers[0] == numbers[1]
    import math_verify  # takes more than a second to import, and many runs never come here

    try:
        gold, given = (math_verify.parse(f"${text}$", raise_on_error=True) for text in (reference, answer))
        return bool(math_verify.verify(gold, given, raise_on_error=True))
    except math_verify.errors.TimeoutException:
        raise Undecided(f"math-verify took too long to compare {answer!r} with {reference!r}") from None
    except Exception:  # what its grammar or sympy cannot read is not equal by rules
        return False


async def rule_judge(question: str, reference: str, answer: str) -> bool:
    return rule_equal(reference, answer)


class LlmJudge:
    """Asks an OpenAI-compatible server at temperature 0 for one word; each distinct question is asked once."""

    def __init__(self, endpoint: str, model: str, max_outage: float):
        self.client = openai.AsyncOpenAI(base_url=endpoint, api_key="none", max_retries=0, timeout=300)
        self.model, self.max_outage = model, max_outage
        self.verdicts: dict[tuple[str, str, str], asyncio.Future[bool]] = {}

    async def __call__(self, question: str, reference: str, answer: str) -> bool:
        key = (question, reference, normalise(answer))
        if key not in self.verdicts:
            self.verdicts[key] = asyncio.ensure_future(self._ask(*key))
        try:
            return await asyncio.shield(self.verdicts[key])
        except Fault:
            self.verdicts.pop(key, None)
            raise

    async def _ask(self, question: str, reference: str, answer: str) -> bool:
        """Raises Undecided when two replies are neither yes nor no, Unreachable when the server stays away."""
        prompt = JUDGE_TEMPLATE.format(question=question, reference=reference, answer=answer)
        for _ in range(2):
            reply = await with_retries(
                lambda: self.client.chat.completions.create(
                    model=self.model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=8
                ),
                self.max_outage,
                f"judge {self.client.base_url}",
            )
            word = re.match(r"\W*(yes|no)\b", (reply.choices[0].message.content or "").lower())
            if word:
                return word.group(1) == "yes"
        raise Undecided(f"judge {self.model}: neither yes nor no about answer {answer!r}")


def make_judge(kind: str, endpoint: str | None, model: str | None, max_outage: float) -> JudgeFunction:
    """One of JUDGES as a function. Raises BadInput when the LLM judge's endpoint or model is missing."""
    if kind == "rule":
        return rule_judge
    if not endpoint or not model:
        raise BadInput(f"--judge {kind} needs --api_endpoint and --judge_model")
    llm = LlmJudge(endpoint, model, max_outage)

    async def rule_then_llm(question: str, reference: str, answer: str) -> bool:
        return rule_equal(reference, answer) or await llm(question, reference, answer)

    return llm if kind == "llm" else rule_then_llm


def add_judge_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every script that judges answers."""
    parser.add_argument("--judge", choices=JUDGES, help="default: rule+llm when --api_endpoint is given, else rule")
    parser.add_argument(
        "--api_endpoint",
        type=lambda text: parse_endpoints(text)[0],
        help="base URL of the judge's OpenAI-compatible server",
    )
    parser.add_argument("--judge_model", help="name of the judge model there; the paper's is Qwen2.5-72B-Instruct")


def judge_from_flags(args: argparse.Namespace) -> tuple[str, JudgeFunction]:
    """The judge's kind and function. Without --judge: rule+llm when an endpoint is given, else rule."""
    kind = args.judge or ("rule+llm" if args.api_endpoint else "rule")
    return kind, make_judge(kind, args.api_endpoint, args.judge_model, args.max_outage)
