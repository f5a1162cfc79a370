"""How fast a CPU's policy server answers one to sixteen requests at once.

    python benchmarks/few_requests.py --model runs/desk/policy

A server as serve_policy.py starts it, whose processes sleep until a message
wakes them, and one as vLLM has it, whose processes look for messages without a
pause. Tokens/s of 10 requests of 30 tokens, one after the other, and the
longest time between two of their pieces.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

import openai
from beside_server import server_command

from mm_prm import cli

REQUESTS, TOKENS = 10, 30
WAYS = {"asleep (ours)": "0", "spinning (vLLM's)": "1"}  # seconds in which a process spins after a message


def asked(client: openai.OpenAI, samples: int, seed: int) -> float:
    """The longest gap in seconds."""
    before, longest = time.perf_counter(), 0.0
    pieces = client.completions.create(
        model="policy",
        prompt="Question: 2 + 2?",
        max_tokens=TOKENS,
        n=samples,
        seed=seed,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    for _ in pieces:
        now = time.perf_counter()
        before, longest = now, max(longest, now - before)
    return longest


def draw(args: argparse.Namespace) -> None:
    """Beside one server; once without counting."""
    client = openai.OpenAI(base_url=os.environ["POLICY_ENDPOINT"].split(",")[0], api_key="none", timeout=None)
    asked(client, 1, 0)
    for samples in args.samples:
        start = time.perf_counter()
        gap = max(asked(client, samples, seed) for seed in range(REQUESTS))
        rate = REQUESTS * TOKENS * samples / (time.perf_counter() - start)
        print(f"| {args.way} | {samples} | {rate:,.0f} | {1000 * gap:.0f} |", flush=True)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model", required=True, help="policy checkpoint")
    parser.add_argument("--samples", type=cli.positive_int, nargs="+", default=[1, 4, 16], help="of a request")
    parser.add_argument("--port", type=int, default=28479, help="of the server")
    parser.add_argument("--way", choices=WAYS, help="measure beside a server that runs (used by itself)")
    args = parser.parse_args()
    if args.way:
        return draw(args)
    print("| processes | samples at once | tokens/s | longest gap, ms |\n|---|---|---|---|", flush=True)
    for way, seconds in WAYS.items():
        server = server_command(args.model, args.port, "few_requests", 512)
        command = [*server, sys.executable, *sys.argv, "--way", way]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "MM_PRM_VLLM_SPIN": seconds}
        )
        if done.returncode:
            raise SystemExit(done.returncode)
        print("\n".join(line for line in done.stdout.splitlines() if line.startswith("|")), flush=True)


if __name__ == "__main__":
    cli.run(main)
