"""What annotation costs the client: CPU time per rollout, memory of trees.

    python benchmarks/search_cpu.py

The policy answers at once, so only the client works. Rows, each including the
one before:
  search     omegaprm.Search alone, rollouts ready as lists of steps
  pipeline   run_data_pipeline's code around it: rollouts parsed from text, rule
             judge, journal, tree file
  http       the openai client and a local server in another process (its CPU
             time is not counted)
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data_pipeline"))  # a benchmark runs a stage's own code

from omegaprm import Search, SearchParams  # noqa: E402
from run_data_pipeline import Annotation, parse_args  # noqa: E402

from mm_prm import cli  # noqa: E402
from mm_prm.judge import judge_from_flags  # noqa: E402
from mm_prm.policy import policy_from_flags  # noqa: E402
from mm_prm.prm_format import render_solution  # noqa: E402
from mm_prm.records import Problem  # noqa: E402

WORDS = "the angle at this point is half of that side so we add both and get the area".split()  # noqa: SIM905


def solutions(seed: int, steps: int = 8, words: int = 25) -> Iterator[tuple[list[str], str]]:
    """Endless rollouts of `steps` steps of `words` words, half of them right (75)."""
    rng = random.Random(seed)
    while True:
        answer = "75" if rng.random() < 0.5 else str(rng.randrange(100, 200))
        yield [" ".join(rng.choices(WORDS, k=words)) for _ in range(steps)], answer


def pool_of_solutions(count: int = 4000) -> list[tuple[list[str], str]]:
    source = solutions(0)
    return [next(source) for _ in range(count)]


async def search_alone(params: SearchParams, ready: list[tuple[list[str], str]], offset: int = 0) -> Search:
    position = offset

    async def policy(prefix: list[str], n: int) -> list[tuple[list[str], str | None]]:
        nonlocal position
        drawn = [ready[(position + i) % len(ready)] for i in range(n)]
        position += n
        return [([*steps[len(prefix) :], answer], answer) for steps, answer in drawn]  # eight steps in all

    async def judge(answer: str) -> bool:
        return answer == "75"

    search = Search(policy, judge, params)
    await search.run()
    return search


class InstantPool:
    """In place of the servers: ready completions, at once."""

    def __init__(self, texts: list[str]):
        self.texts, self.position = texts, 0

    async def complete(self, home: int, **request: Any) -> Any:
        n = request["n"]
        texts = [self.texts[(self.position + i) % len(self.texts)] for i in range(n)]
        self.position += n
        choices = [{"message": {"content": text}, "finish_reason": "stop"} for text in texts]
        return {"choices": choices, "usage": {"completion_tokens": 250 * n}}

    async def close(self) -> None:
        pass


def serve_completions(texts: list[str], n: int, port: Any) -> None:
    """A chat server whose replies are bytes made beforehand."""
    replies = []
    for start in range(0, len(texts) - n, n):
        choices = [
            {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            for i, text in enumerate(texts[start : start + n])
        ]
        usage = {"prompt_tokens": 1, "completion_tokens": 250 * n, "total_tokens": 250 * n + 1}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        replies.append(json.dumps({**head, "choices": choices, "usage": usage}).encode())
    turn = iter(range(10**12))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = replies[next(turn) % len(replies)]
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_address[1]
    server.serve_forever()


def pipeline_args(out: Path, budget: int, endpoint: str) -> argparse.Namespace:
    sys.argv = ["run_data_pipeline.py", "--input_file", "-", "--output_dir", str(out), "--model", "m"]
    sys.argv += ["--policy_endpoint", endpoint, "--judge", "rule"]
    sys.argv += ["--rollout_budget", str(budget), "--max_search_count", str(budget)]
    return parse_args()


async def pipeline(budget: int, trees: int, in_flight: int, pool: InstantPool | None, endpoint: str) -> int:
    """Trees of `budget` rollouts through the product's code, in_flight at a time; returns the rollouts drawn."""
    with tempfile.TemporaryDirectory() as folder:
        args = pipeline_args(Path(folder), budget, endpoint)
        client, judge = policy_from_flags(args), judge_from_flags(args)
        if pool:
            await client.pool.close()
            client.pool = pool  # type: ignore[assignment]
        annotation = Annotation(args, client, judge)
        problems = [Problem(f"p{n}", f"Problem {n}?", "75", [], {"id": n}) for n in range(trees)]
        limit = asyncio.Semaphore(in_flight)

        async def one(problem: Problem) -> None:
            async with limit:
                await annotation.annotate(problem)

        await asyncio.gather(*map(one, problems))
        await client.pool.close()
        await judge.close()
        return client.rollouts


def rate(run: Any) -> float:
    """Rollouts per CPU second of this process, the best of five."""
    best = 0.0
    for _ in range(5):
        gc.collect()
        started = time.process_time()
        rollouts = run()
        best = max(best, rollouts / (time.process_time() - started))
    return best


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--in_flight", type=cli.positive_int, default=256, help="trees for the memory row")
    options = parser.parse_args()
    ready = pool_of_solutions()
    texts = [render_solution(steps, answer) for steps, answer in ready]
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve_completions, args=(texts, 16, port), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.05)
    endpoint = f"http://127.0.0.1:{port.value}/v1"

    print("| rollouts in a tree | search: rollouts/s | microseconds a rollout |\n|---|---|---|")
    for budget in (250, 500, 1000, 2000, 4000, 8000, 16000):
        params = SearchParams(max_search_count=budget, rollout_budget=budget)
        repeat = max(1, 32000 // budget)
        speed = rate(lambda: sum(asyncio.run(search_alone(params, ready, i)).rollouts for i in range(repeat)))  # noqa: B023
        print(f"| {budget} | {speed:.0f} | {1e6 / speed:.1f} |")

    print("\n| trees of 1000 rollouts | rollouts per CPU second |\n|---|---|")
    params = SearchParams(max_search_count=1000)
    print(
        f"| search | {rate(lambda: sum(asyncio.run(search_alone(params, ready, i)).rollouts for i in range(16))):.0f} |"
    )
    print(f"| pipeline | {rate(lambda: asyncio.run(pipeline(1000, 16, 16, InstantPool(texts), endpoint))):.0f} |")
    print(f"| http | {rate(lambda: asyncio.run(pipeline(1000, 16, 16, None, endpoint))):.0f} |")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    texts_of = solutions(1)

    async def grown() -> list[Search]:
        """Every rollout its own text, as from a real policy."""
        made = []
        for _ in range(options.in_flight):
            made.append(await search_alone(params, [next(texts_of) for _ in range(1100)]))
        return made

    trees = asyncio.run(grown())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rollouts = sum(tree.rollouts for tree in trees) / len(trees)
    print(f"\nmemory: {len(trees)} trees of {rollouts:.0f} rollouts of 200 words: {(peak - before) / 1024:.0f} MiB")
    server.terminate()


if __name__ == "__main__":
    cli.run(main)
