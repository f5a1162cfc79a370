"""Run many problems at once, keep what is finished, and say what is not: the loop of stages 2 and 6."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence

from tqdm import tqdm

from mm_prm.cli import Fault, Unfinished
from mm_prm.policy import PolicyClient
from mm_prm.records import Problem


async def work_through(
    problems: Sequence[Problem],
    handle: Callable[[Problem], Awaitable[None]],
    client: PolicyClient,
    concurrency: int,
    what: str,
) -> None:
    """Call `handle(problem)` for every problem, at most `concurrency` at a time, under one progress bar.

    A Fault leaves that problem unfinished and the others go on. SIGTERM and Ctrl-C drop the requests in flight.
    The client is closed at the end. Raises Unfinished that lists every problem without a result and its reason.
    """
    limit, failed = asyncio.Semaphore(concurrency), {problem.id: "stopped" for problem in problems}
    bar = tqdm(total=len(problems), desc=what, unit="problem", mininterval=1)

    async def one(problem: Problem) -> None:
        async with limit:
            try:
                await handle(problem)
                del failed[problem.id]
            except Fault as error:
                failed[problem.id] = str(error)
            rate = 1 / max(bar.format_dict["elapsed"], 1e-9)
            bar.set_postfix_str(f"{client.rollouts * rate:.0f} rollouts/s, {client.tokens * rate:.0f} tokens/s", False)
            bar.update()

    gathered = asyncio.gather(*map(one, problems))
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, gathered.cancel)
    try:
        await gathered
    except asyncio.CancelledError:
        pass  # what was not reached is listed as stopped
    finally:
        bar.close()
        await client.close()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
    if failed:
        reasons = "".join(f"\n  {id_}: {reason}" for id_, reason in sorted(failed.items()))
        raise Unfinished(f"{len(failed)} of {len(problems)} problems unfinished, run again to resume:{reasons}")
