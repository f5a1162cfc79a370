"""Async client of the policy server: images and a prompt in, n rollouts as lists of steps out."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mm_prm import cli
from mm_prm.prm_format import STEP_ENDS, STEP_FORMATS, defuse, parse_solution, read_step, render_steps
from mm_prm.prompts import policy_prompt
from mm_prm.records import Problem
from mm_prm.servers import ServerPool, add_endpoint_flag, add_outage_flag, image_part

PREFIX_MODES = ("prompt", "prefill")
# One tree draws 16 rollouts at a time, so 64 trees are about 1,000 sequences: what vLLM decodes at once on a large GPU.
# More would queue there, and the prefixes of waiting trees would push each other out of the prefix cache.
IN_FLIGHT = 64


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
    logprob: natural log, summed over its tokens, and tokens: None when the server did not say; more: it was stopped at
    the end of a step, steps holds that step; cut: at the token limit."""

    text: str
    steps: list[str]
    answer: str | None
    logprob: float | None
    tokens: int | None = None
    more: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Dialect:
    """How policy and client write to each other: prefix_mode one of PREFIX_MODES, step_format one of STEP_FORMATS."""

    prefix_mode: str = "prompt"
    step_format: str = "tags"


class PolicyClient:
    """Draws rollouts from one or more OpenAI-compatible vLLM endpoints that serve the same policy."""

    def __init__(self, pool: ServerPool, model: str, sampling: Sampling, dialect: Dialect, seed: int = 0):
        self.pool, self.model, self.sampling, self.dialect, self.seed = pool, model, sampling, dialect, seed
        self.rollouts = self.tokens = 0  # drawn so far

    def for_problem(self, problem: Problem) -> ProblemPolicy:
        """A policy for one problem: its images are read and encoded once, and it sticks to one endpoint."""
        return ProblemPolicy(self, problem)


class ProblemPolicy:
    """The policy as the search sees it: `await policy.draw(prefix, n)`. calls: requests so far, for the seed;
    tokens: drawn so far."""

    def __init__(self, client: PolicyClient, problem: Problem):
        self.client, self.problem, self.calls, self.tokens = client, problem, 0, 0
        self.images = [image_part(image) for image in problem.images]
        self.home = int(problem.key, 16)

    def next_seed(self) -> int:
        """A seed for one request. The server counts up from it, one per sample, so neighbouring seeds would repeat
        the same draws in the next request: a hash keeps the requests apart."""
        self.calls += 1
        text = f"{self.client.seed} {self.problem.key} {self.calls}"
        return int.from_bytes(hashlib.md5(text.encode()).digest()[:6], "big")

    def messages(self, prefix: Sequence[str], written: str = "") -> list[dict[str, Any]]:
        """The chat: in prompt mode the prefix is part of the question, in prefill mode the reply's beginning, as it was
        written where that is known."""
        dialect = self.client.dialect
        rendered = render_steps(list(map(defuse, prefix)), dialect.step_format)
        prefill = dialect.prefix_mode == "prefill"
        text = policy_prompt(defuse(self.problem.question), "" if prefill else rendered, dialect.step_format)
        messages = [{"role": "user", "content": [*self.images, {"type": "text", "text": text}]}]
        begun = defuse(written) or rendered
        return [*messages, {"role": "assistant", "content": begun}] if prefill and begun else messages

    async def draw(
        self,
        prefix: Sequence[str],
        n: int,
        logprobs: bool = False,
        one_step: bool = False,
        written: str = "",
        used: int = 0,
    ) -> list[Rollout]:
        """n rollouts that follow `prefix`, with their log-probabilities if asked. Raises Unreachable or Fault.

        one_step: stop at the end of the next step; written: the prefix as the policy wrote it; used: its tokens, of
        max_new_tokens.
        """
        step_format, messages = self.client.dialect.step_format, self.messages(prefix, written)
        prefill = messages[-1]["role"] == "assistant"
        reply = await self.ask(
            messages,
            n,
            used,
            logprobs=logprobs,
            **({"continue_final_message": True, "add_generation_prompt": False} if prefill else {}),
            **({"stop": [STEP_ENDS[step_format]], "include_stop_str_in_output": True} if one_step else {}),
        )
        rollouts = [read_choice(choice, step_format) for choice in reply["choices"]]
        tokens = (reply.get("usage") or {}).get("completion_tokens") or 0
        self.tokens += tokens
        self.client.tokens += tokens
        self.client.rollouts += len(rollouts)
        return rollouts

    async def ask(self, messages: list[dict[str, Any]], n: int, used: int = 0, **more: Any) -> dict[str, Any]:
        """The server's reply, of n choices; more: of the request."""
        client, sampling = self.client, self.client.sampling
        return await client.pool.complete(
            self.home,
            model=client.model,
            messages=messages,
            n=n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=max(sampling.max_new_tokens - used, 1),
            seed=self.next_seed(),
            **more,
        )


def read_choice(choice: dict[str, Any], step_format: str) -> Rollout:
    # A lone surrogate, which JSON can carry and UTF-8 cannot, would make the tree impossible to write.
    text = (choice["message"].get("content") or "").encode("utf-8", "replace").decode("utf-8")
    more = choice.get("stop_reason") == STEP_ENDS[step_format]  # null where the policy itself ended
    cut = choice.get("finish_reason") == "length"
    steps, answer = (read_step(text, step_format), None) if more else parse_solution(text, step_format, cut)
    tokens = (choice.get("logprobs") or {}).get("content")
    logprob = None if tokens is None else sum(token.get("logprob") or 0.0 for token in tokens)
    return Rollout(text, steps, answer, logprob, None if tokens is None else len(tokens), more, cut)


def add_policy_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every script that draws rollouts."""
    defaults = Sampling()
    add_endpoint_flag(parser)
    parser.add_argument("--model", required=True, help="name under which the server serves the policy")
    for name, kind, text in (
        ("max_new_tokens", cli.positive_int, "longest rollout in tokens"),
        ("temperature", cli.non_negative, "sampling temperature"),
        ("top_k", int, "sample among the k likeliest tokens"),
        ("top_p", cli.fraction, "sample within this probability mass"),
        ("repetition_penalty", cli.non_negative, "1 turns it off"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=getattr(defaults, name), help=text)
    parser.add_argument(
        "--prefix_mode",
        choices=PREFIX_MODES,
        default="prompt",
        help="previous steps in the question (prompt, as released) or as the reply's beginning (prefill)",
    )
    parser.add_argument(
        "--step_format",
        choices=STEP_FORMATS,
        default="tags",
        help="tags: <step> and <answer>; paragraphs: blank lines or 'Step n:', then 'Answer:' or \\boxed; think: "
        "paragraphs in <think>, then <answer>",
    )
    parser.add_argument(
        "--concurrency",
        type=cli.positive_int,
        help=f"problems in flight at once (default: {IN_FLIGHT} for each endpoint)",
    )
    add_outage_flag(parser)
    parser.add_argument("--seed", type=int, default=0, help="decides the policy's draws")


def policy_pool(args: argparse.Namespace) -> ServerPool:
    return ServerPool("policy", args.policy_endpoint, args.max_outage, os.environ.get("POLICY_API_KEY", "none"))


def policy_from_flags(args: argparse.Namespace) -> PolicyClient:
    """The client; args.concurrency is set to its default when the flag was not given."""
    args.concurrency = args.concurrency or IN_FLIGHT * len(args.policy_endpoint)
    sampling = Sampling(**{name: getattr(args, name) for name in Sampling.__dataclass_fields__})
    return PolicyClient(policy_pool(args), args.model, sampling, Dialect(args.prefix_mode, args.step_format), args.seed)
