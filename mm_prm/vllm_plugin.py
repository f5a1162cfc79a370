"""What is changed in a vLLM server on a CPU. vLLM calls `register` in all its processes (`vllm.general_plugins`)."""

from __future__ import annotations

import os
from typing import Any

SPIN = "MM_PRM_VLLM_SPIN"  # seconds; serve_policy.py sets it on machines without a GPU, elsewhere nothing is changed
NOTIFICATIONS = 1000  # that a sender holds


def register() -> None:
    """A process of vLLM 0.32 that waits for another one's message looks for it without a pause until a second has
    passed since the last one (`SpinCondition`): while the worker computes, a core is busy with looking. A GPU machine
    has one to spare. On a small one it is the worker's, or the client's, so here the process sleeps until it is woken.

    Then every message must wake it. vLLM's sender holds one notification (SNDHWM 1), and ZeroMQ looks about once in a
    millisecond whether that has gone, so the second of two is dropped. Who spins does not miss it; who sleeps looks
    again after 5 s: the time of every token where few are computed at once."""
    if not os.environ.get(SPIN):
        return
    seconds = float(os.environ[SPIN])
    import zmq
    from vllm.distributed.device_communicators import shm_broadcast

    class Waking(shm_broadcast.SpinCondition):
        def __init__(self, is_reader: bool, context: Any, notify_address: str) -> None:
            super().__init__(is_reader, context, notify_address, seconds)
            if not is_reader:  # what is bound later holds more
                self.local_notify_socket.unbind(notify_address)
                self.local_notify_socket.setsockopt(zmq.SNDHWM, NOTIFICATIONS)
                self.local_notify_socket.bind(notify_address)

    shm_broadcast.SpinCondition = Waking  # type: ignore[misc]
