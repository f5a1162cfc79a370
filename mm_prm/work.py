"""Run many problems at once, keep what is finished, and say what is not: the loop of stages 2 and 6."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from tqdm import tqdm

from mm_prm.cli import Busy, Fault, Unfinished

BUSY_PAUSE = 1.0  # seconds before a problem that another process works on is looked at again


class HasId(Protocol):
    id: str


Item = TypeVar("Item", bound=HasId)


async def work_through(
    items: Sequence[Item],
    handle: Callable[[Item], Awaitable[None]],
    concurrency: int,
    what: str,
    status: Callable[[float], str] = lambda seconds: "",
) -> None:
    """Call `handle(item)` for every problem or tree, at most `concurrency` at a time, under one progress bar.

    A Fault leaves that one unfinished and the others go on; Busy (another process has it) brings it up again later.
    SIGTERM and Ctrl-C drop the requests in flight. status(seconds): what the bar shows beside the counts.
    Raises Unfinished that lists every one without a result and its reason.
    """
    _allow_open_files()
    limit, failed = asyncio.Semaphore(concurrency), {item.id: "stopped" for item in items}
    running = faults = 0
    # Where nobody watches, the bar is a line in a log
    bar = tqdm(total=len(items), desc=what, dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 30)

    def show() -> None:
        counts = f"{running} running, {faults} failed"
        bar.set_postfix_str(", ".join(filter(None, [counts, status(bar.format_dict["elapsed"])])), refresh=False)

    async def tick() -> None:
        while True:
            await asyncio.sleep(bar.mininterval)
            show()
            bar.refresh()

    async def once(item: Item) -> None:
        nonlocal running, faults
        async with limit:
            running += 1
            try:
                await handle(item)
                del failed[item.id]
            except Fault as error:
                failed[item.id] = str(error)
                faults += 1
            finally:
                running -= 1

    async def one(item: Item) -> None:
        while True:
            try:
                await once(item)
                break
            except Busy:
                failed[item.id] = "another process is working on it"
                await asyncio.sleep(BUSY_PAUSE)
        show()
        bar.update()

    ticker = asyncio.ensure_future(tick())
    tasks = [asyncio.ensure_future(one(item)) for item in items]
    gathered = asyncio.gather(*tasks)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for name in (signal.SIGTERM, signal.SIGINT):  # Ctrl-C may come twice: from the terminal and from a script
            loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_IGN)
        gathered.cancel()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop)
    try:
        with contextlib.suppress(asyncio.CancelledError):  # what was not reached is listed as stopped
            await gathered
    finally:
        for task in tasks:  # after a fault that ends the run, the others save what they have
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ticker.cancel()
        bar.close()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
    if failed:
        reasons = "".join(f"\n  {id_}: {reason}" for id_, reason in sorted(failed.items()))
        raise Unfinished(f"{len(failed)} of {len(items)} problems unfinished, run again to resume:{reasons}")


def _allow_open_files() -> None:
    """Every problem in flight holds a connection and a file: take what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
