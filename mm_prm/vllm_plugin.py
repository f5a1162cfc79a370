"""What is changed in a vLLM server on a CPU. vLLM calls `register` in all its processes (`vllm.general_plugins`)."""

from __future__ import annotations

import os

SPIN = "MM_PRM_VLLM_SPIN"  # seconds; serve_policy.py sets it on machines without a GPU, elsewhere nothing is changed


def register() -> None:
    """A process of vLLM 0.32 that waits for another one's message looks for it without a pause until a second has
    passed since the last one (`SpinCondition`): while the worker computes, a core is busy with looking. A GPU machine
    has one to spare. On a small one it is the worker's, or the client's; a message wakes the process anyhow."""
    if seconds := os.environ.get(SPIN):
        from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

        SpinCondition.__init__.__defaults__ = (float(seconds),)
