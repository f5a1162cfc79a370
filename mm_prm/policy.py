"""Async client of the policy server: images and a prompt in, n rollouts as lists of steps out."""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import mimetypes
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai

from mm_prm import cli
from mm_prm.cli import Fault
from mm_prm.prm_format import parse_solution, render_steps
from mm_prm.prompts import policy_prompt
from mm_prm.records import Problem

PREFIX_MODES = ("prompt", "prefill")
TIMEOUT = httpx.Timeout(1800, connect=10)  # seconds; a batch of long rollouts may take many minutes
T = TypeVar("T")


class Unreachable(Fault):
    """A server stayed out of reach for longer than the allowed outage."""


@dataclass(frozen=True)
class Sampling:
    """How rollouts are drawn: the paper's values; repetition_penalty and max_new_tokens are the released code's."""

    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 50
    repetition_penalty: float = 1.05
    max_new_tokens: int = 4096


@dataclass(frozen=True)
class Rollout:
    """One drawn solution. steps: those after the prefix, the answer last; answer: None when it never came;
    logprob: natural log, summed over its tokens, 0 when it was not asked for."""

    text: str
    steps: list[str]
    answer: str | None
    logprob: float


async def with_retries(call: Callable[[], Awaitable[T]], max_outage: float, what: str) -> T:
    """Await `call` until it gets through, with exponential backoff. Raises Unreachable after `max_outage` seconds.

    Only a dropped connection, a timeout, an overload or a server-side error is tried again; a request that the
    server refuses raises Fault at once.
    """
    deadline, pause = None, 0.5
    while True:
        try:
            return await call()
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            now = time.monotonic()
            deadline = deadline or now + max_outage  # the outage begins with the first failure
            if now >= deadline:
                raise Unreachable(f"{what}: out of reach for {max_outage:g} s ({error})") from None
            await asyncio.sleep(min(pause, deadline - now))
            pause = min(2 * pause, 30)
        except openai.APIStatusError as error:
            raise Fault(f"{what}: refused ({error.message})") from None


def image_part(path: str) -> dict[str, Any]:
    """One image as an entry of a chat message, the file's own bytes as a data URL."""
    kind = mimetypes.guess_type(path)[0] or "image/png"
    data = base64.b64encode(Path(path).read_bytes()).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}


class PolicyClient:
    """Draws rollouts from one or more OpenAI-compatible vLLM endpoints that serve the same policy."""

    def __init__(
        self,
        endpoints: Sequence[str],
        model: str,
        sampling: Sampling,
        prefix_mode: str = "prompt",
        max_outage: float = 600,
        seed: int = 0,
    ):
        self.model, self.sampling, self.prefix_mode = model, sampling, prefix_mode
        self.max_outage, self.seed = max_outage, seed
        self.clients = [
            openai.AsyncOpenAI(base_url=endpoint, api_key="none", max_retries=0, timeout=TIMEOUT)
            for endpoint in endpoints
        ]
        self.rollouts = self.tokens = 0

    async def close(self) -> None:
        for client in self.clients:
            await client.close()

    def for_problem(self, problem: Problem) -> ProblemPolicy:
        """A policy for one problem: its images are read and encoded once, and it sticks to one endpoint."""
        return ProblemPolicy(self, problem)


class ProblemPolicy:
    """The policy as the search sees it: `await policy.draw(prefix, n)`."""

    def __init__(self, client: PolicyClient, problem: Problem):
        self.client, self.problem, self.calls = client, problem, 0
        self.images = [image_part(image) for image in problem.images]
        self.endpoint = client.clients[int(problem.key, 16) % len(client.clients)]

    def next_seed(self) -> int:
        """A seed for one request. The server counts up from it, one per sample, so neighbouring seeds would repeat
        the same draws in the next request: a hash keeps the requests apart."""
        self.calls += 1
        text = f"{self.client.seed} {self.problem.key} {self.calls}"
        return int.from_bytes(hashlib.md5(text.encode()).digest()[:6], "big")

    def messages(self, prefix: Sequence[str]) -> list[dict[str, Any]]:
        """The chat: in prompt mode the prefix is part of the question, in prefill mode the reply's beginning."""
        rendered, prefill = render_steps(list(prefix)), self.client.prefix_mode == "prefill"
        text = policy_prompt(self.problem.question, "" if prefill else rendered)
        messages = [{"role": "user", "content": [*self.images, {"type": "text", "text": text}]}]
        return [*messages, {"role": "assistant", "content": rendered}] if prefill and prefix else messages

    async def draw(self, prefix: Sequence[str], n: int, logprobs: bool = False) -> list[Rollout]:
        """n rollouts that follow `prefix`, with their log-probabilities if asked. Raises Unreachable or Fault."""
        client, sampling = self.client, self.client.sampling
        messages = self.messages(prefix)
        extra: dict[str, Any] = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
        if messages[-1]["role"] == "assistant":
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        seed = self.next_seed()
        reply = await with_retries(
            lambda: self.endpoint.chat.completions.create(
                model=client.model,
                messages=messages,  # type: ignore[arg-type]
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=seed,
                logprobs=logprobs,
                extra_body=extra,
            ),
            client.max_outage,
            f"policy {self.endpoint.base_url}",
        )
        rollouts = [read_choice(choice) for choice in reply.choices]
        client.rollouts += len(rollouts)
        client.tokens += reply.usage.completion_tokens if reply.usage else 0
        return rollouts


def read_choice(choice: Any) -> Rollout:
    text = choice.message.content or ""
    steps, answer = parse_solution(text)
    logprobs = [token.logprob for token in choice.logprobs.content] if choice.logprobs else []
    return Rollout(text, steps, answer, sum(logprobs))


def parse_endpoints(text: str) -> list[str]:
    """argparse type: `URL[,URL]` as base URLs ending in /v1."""
    urls = [url.strip().rstrip("/") for url in text.split(",") if url.strip()]
    for url in urls:
        if not re.fullmatch(r"https?://[^\s/:]+(:\d{1,5})?(/\S*)?", url):
            raise argparse.ArgumentTypeError(f"not a URL like http://host:8000/v1: {url!r}")
    if not urls:
        raise argparse.ArgumentTypeError("no URL given")
    return [url if url.endswith("/v1") else f"{url}/v1" for url in urls]


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every script that draws rollouts."""
    defaults = Sampling()
    parser.add_argument(
        "--policy_endpoint",
        required=True,
        type=parse_endpoints,
        help="base URL(s) of the policy server, comma-separated",
    )
    parser.add_argument("--model", required=True, help="name under which the server serves the policy")
    for name, kind, text in (
        ("max_new_tokens", cli.positive_int, "longest rollout in tokens"),
        ("temperature", float, "sampling temperature"),
        ("top_k", int, "sample among the k likeliest tokens"),
        ("top_p", float, "sample within this probability mass"),
        ("repetition_penalty", float, "1 turns it off"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=getattr(defaults, name), help=text)
    parser.add_argument(
        "--prefix_mode",
        choices=PREFIX_MODES,
        default="prompt",
        help="previous steps in the question (prompt, as released) or as the reply's beginning (prefill)",
    )
    parser.add_argument("--concurrency", type=cli.positive_int, default=64, help="problems in flight at once")
    parser.add_argument("--max_outage", type=float, default=600, help="seconds a server may stay out of reach")
    parser.add_argument("--seed", type=int, default=0, help="decides the policy's draws")


def policy_from_flags(args: argparse.Namespace) -> PolicyClient:
    sampling = Sampling(**{name: getattr(args, name) for name in Sampling.__dataclass_fields__})
    return PolicyClient(args.policy_endpoint, args.model, sampling, args.prefix_mode, args.max_outage, args.seed)
