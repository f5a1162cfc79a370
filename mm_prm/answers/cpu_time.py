"""A limit on computer algebra that no other load of the machine changes: CPU time of this process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

CPU_SECONDS = 20.0


class _OutOfTime(BaseException):  # no Exception: computer algebra catches those
    pass


def _interrupt(number: int, frame: object) -> None:
    raise _OutOfTime


def limited(function: Callable[..., Any], *args: Any, seconds: float = CPU_SECONDS) -> Any:
    """function(*args), or "unsure" when it has used `seconds` of this process's CPU time or all its memory."""
    before = signal.signal(signal.SIGPROF, _interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return function(*args)
    except (_OutOfTime, MemoryError, RecursionError):
        return "unsure"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
