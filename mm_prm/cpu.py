"""What work on a CPU is given: the type of its numbers, and a thread for every core that nobody else keeps busy."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from mm_prm.cli import BadInput

DTYPES = ("bfloat16", "float32")


def cpu_dtype() -> str:
    """`bfloat16` where the CPU has units for it, else `float32`: emulating it takes three times as long.

    The variable MM_PRM_CPU_DTYPE overrides. Raises BadInput when it names another type.
    """
    chosen = os.environ.get("MM_PRM_CPU_DTYPE")
    if chosen and chosen not in DTYPES:
        raise BadInput(f"MM_PRM_CPU_DTYPE={chosen}: must be {' or '.join(DTYPES)}")
    has_units = re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", Path("/proc/cpuinfo").read_text())
    return chosen or ("bfloat16" if has_units else "float32")


def busy_ticks(stat: str, cores: Collection[int]) -> int:
    """Clock ticks in which one of `cores` was neither idle nor waiting for a disk; stat: /proc/stat (proc(5))."""
    ticks = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks


class FreeCores:
    """How many of the cores that this process may use are not kept busy by others, looked at again and again.

    OpenMP's threads wait for each other by spinning. With more threads than free cores they spin against whatever else
    runs, and everything becomes several times slower; with as many as there are free cores nobody waits long.
    """

    WINDOW = 0.5  # seconds between two looks: the kernel counts in hundredths

    def __init__(self) -> None:
        self.cores = os.sched_getaffinity(0)
        self.count = len(self.cores)
        self.looked_at, self.others = time.monotonic(), self.others_seconds()

    def others_seconds(self) -> float:
        """CPU seconds that other processes have had on our cores since the machine started."""
        ticks = busy_ticks(Path("/proc/stat").read_text(), self.cores)
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()

    def look(self) -> int:
        """Cores that were free since the last look, at least one; half of a busy core may be had all the same."""
        now = time.monotonic()
        if now - self.looked_at >= self.WINDOW:
            others = self.others_seconds()
            busy = (others - self.others) / (now - self.looked_at)
            self.count = min(max(1, int(len(self.cores) - busy + 0.5)), len(self.cores))
            self.looked_at, self.others = now, others
        return self.count


class Threads:
    """Gives torch's operators as many threads as there are free cores; `adjust` is called between pieces of work.

    OMP_NUM_THREADS stays the upper limit.
    """

    def __init__(self) -> None:
        import torch

        self.torch, self.most = torch, torch.get_num_threads()
        self.free = FreeCores()

    def adjust(self) -> None:
        count = min(self.most, self.free.look())
        if count != self.torch.get_num_threads():
            self.torch.set_num_threads(count)
