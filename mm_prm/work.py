"""Run many problems at once, keep what is finished, and say what is not: the loop of stages 2 and 6."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from tqdm import tqdm

from mm_prm.cli import Busy, Fault, Unfinished

BUSY_PAUSE = 1.0  # seconds before a problem that another process works on is looked at again


class HasId(Protocol):
    @property
    def id(self) -> str: ...


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
    work = _Work(items, handle, concurrency, what, status)
    ticker = asyncio.ensure_future(work.tick())
    tasks = [asyncio.ensure_future(work.one(number)) for number in range(len(items))]
    gathered = asyncio.gather(*tasks)
    try:
        with _stopped_by_signals(gathered.cancel), contextlib.suppress(asyncio.CancelledError):
            await gathered
    finally:
        for task in tasks:  # after a fault that ends the run, the others save what they have
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ticker.cancel()
        work.bar.close()
    if work.without_result:
        lines = sorted(f"\n  {items[number].id}: {reason}" for number, reason in work.without_result.items())
        raise Unfinished(f"{len(lines)} of {len(items)} problems unfinished, run again to resume:{''.join(lines)}")


class _Work(Generic[Item]):
    """without_result: why an item has none so far, by its position."""

    def __init__(
        self,
        items: Sequence[Item],
        handle: Callable[[Item], Awaitable[None]],
        concurrency: int,
        what: str,
        status: Callable[[float], str],
    ):
        self.items, self.handle, self.status = items, handle, status
        self.limit = asyncio.Semaphore(concurrency)
        self.without_result = dict.fromkeys(range(len(items)), "stopped")
        self.running = self.faults = 0
        # Where nobody watches, the bar is a line in a log.
        interval = 0.5 if sys.stderr.isatty() else 30
        self.bar = tqdm(total=len(items), desc=what, dynamic_ncols=True, mininterval=interval)

    async def one(self, number: int) -> None:
        while not await self.once(number):
            await asyncio.sleep(BUSY_PAUSE)
        self.show()
        self.bar.update()

    async def once(self, number: int) -> bool:
        """False when another process has it and it must be looked at again."""
        async with self.limit:
            self.running += 1
            try:
                await self.handle(self.items[number])
                del self.without_result[number]
            except Busy:
                self.without_result[number] = "another process is working on it"
                return False
            except Fault as error:
                self.without_result[number] = str(error)
                self.faults += 1
            finally:
                self.running -= 1
        return True

    def show(self) -> None:
        shown = [f"{self.running} running, {self.faults} failed", self.status(self.bar.format_dict["elapsed"])]
        self.bar.set_postfix_str(", ".join(filter(None, shown)), refresh=False)

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(self.bar.mininterval)
            self.show()
            self.bar.refresh()


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` on SIGTERM and on Ctrl-C, once: it may come twice, from the terminal and from a script."""
    loop, names = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)

    def once() -> None:
        for name in names:
            loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_IGN)
        stop()

    for name in names:
        loop.add_signal_handler(name, once)
    try:
        yield
    finally:
        for name in names:
            loop.remove_signal_handler(name)


def _allow_open_files() -> None:
    """Every problem in flight holds a connection and a file: take what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
