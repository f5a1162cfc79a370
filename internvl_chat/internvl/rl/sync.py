"""New weights into the policy's running vLLM servers, and nothing of the old ones left there.

The trainer writes a checkpoint into a folder that all servers see (/dev/shm on one machine); each of them is paused,
forgets what it computed with the old weights, reads the new ones and goes on. A server must have been started with
VLLM_SERVER_DEV_MODE=1 and SERVER_FLAGS. Every step then compares the log-probabilities it serves with the trainer's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx

from mm_prm.cli import Fault
from mm_prm.servers import Server, ServerPool, Unreachable

# Log-probabilities are those of the distribution that was sampled from, temperature included.
SERVER_FLAGS = ["--worker-extension-cls", "internvl.rl.sync.WeightLoader", "--logprobs-mode", "processed_logprobs"]
TIMEOUT = 900  # seconds one server may take to read its weights
PAUSE = 2.0  # seconds between two tries when no server answers


class WeightLoader:
    """Methods that vLLM adds to its worker (--worker-extension-cls), for /collective_rpc."""

    def load_new_weights(self: Any, folder: str) -> None:
        self.reload_weights(weights_path=folder)
        # On a CPU the LM head multiplies by a packed copy of its weight. Where the head shares it with the embedding,
        # vLLM 0.32 reloads that and leaves the copy as it was: the log-probabilities would be of the old head.
        for module in self.model_runner.get_model().modules():
            pack = getattr(getattr(module, "quant_method", None), "process_weights_after_loading", None)
            if pack and hasattr(module, "num_embeddings") and hasattr(module, "cpu_linear"):
                pack(module)


def calls(folder: str | Path) -> list[tuple[str, dict[str, Any] | None]]:
    """What a server is asked to do, in order: path and JSON body."""
    return [
        ("/pause?clear_cache=false", None),  # the caches are emptied one by one below
        ("/reset_mm_cache", None),
        # A picture seen before would be looked up where it is no longer: "Encoder cache miss", and the engine dies.
        ("/reset_encoder_cache", None),
        # A prompt seen before would be continued from keys and values of the old weights.
        ("/reset_prefix_cache", None),
        ("/collective_rpc", {"method": "load_new_weights", "kwargs": {"folder": str(folder)}}),
        ("/resume", None),
    ]


async def reload(url: str, folder: str | Path, without: Collection[str] = ()) -> None:
    """Have one server take the weights of `folder`. url: its root; without: paths of calls to leave out, to show what
    they are for. Raises Fault when the server cannot do it, httpx.HTTPError when it is out of reach."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, trust_env=False) as client:
        for path, body in calls(folder):
            if path.split("?")[0] in without:
                continue
            reply = await client.post(path, json=body)
            if reply.status_code == 404:
                raise Fault(f"{url}{path}: no such path; start the policy's server with VLLM_SERVER_DEV_MODE=1")
            if reply.status_code != 200 or reply.text == '{"success":false}':
                raise Fault(f"{url}{path}: {reply.status_code} {reply.text[:300]}")


def root(server: Server) -> str:
    """`http://host:port` of a server of the pool."""
    return str(server.client.base_url).rstrip("/").removesuffix("/v1")


class Replicas:
    """The policy's servers: those with the newest weights are in the pool, the others wait for the next sync."""

    def __init__(self, pool: ServerPool):
        self.pool, self.all = pool, list(pool.servers)

    async def sync(self, folder: str | Path) -> None:
        """Give every server the weights. Raises Unreachable when none could be reached for max_outage seconds."""
        deadline = time.monotonic() + self.pool.max_outage
        while True:
            results = await asyncio.gather(*(self.one(server, folder) for server in self.all))
            self.pool.servers[:] = [server for server, error in zip(self.all, results, strict=True) if error is None]
            for server, error in zip(self.all, results, strict=True):
                if error is not None:
                    print(
                        f"warning: {root(server)} did not take the new weights, left out for now: {error}", flush=True
                    )
            if self.pool.servers:
                return
            if time.monotonic() > deadline:
                raise Unreachable(f"policy: no server took the new weights for {self.pool.max_outage:g} s")
            await asyncio.sleep(PAUSE)

    async def one(self, server: Server, folder: str | Path) -> Exception | None:
        try:
            await reload(root(server), folder)
        except httpx.HTTPError as error:
            return error
        server.failing_since = None
        return None

    async def close(self) -> None:
        self.pool.servers[:] = self.all
        await self.pool.close()
