"""Calls to OpenAI-compatible servers: which one to ask, when to ask again, and when to give up."""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import openai
from tqdm import tqdm

from mm_prm.cli import Fault, non_negative
from mm_prm.pictures import picture_bytes

PROBE_PAUSE = 30  # seconds between two tries of a dead server while others live
PATIENCE = 300  # seconds without a reply after which a server is asked whether it lives
WARNING_PAUSE = 60  # seconds between two lines about failures of a server


_PICTURE = re.compile(r"data:[\w.+/-]*;base64,[\w+/=-]*|[\w+/=-]{200,}")  # a data URI, or the base64 of one


class Unreachable(Fault):
    """A server stayed out of reach for longer than the allowed outage."""


class Refused(Fault):
    """A server will never answer this request: it is malformed or too long."""


class Garbled(ValueError):
    """A reply that is not the chat completion asked for."""


class WrongCount(Garbled):
    """A chat completion with more or fewer choices than were asked for."""


# What another try may cure; a request that the server refuses (any other status) is a Fault at once.
PASSING = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError, Garbled, json.JSONDecodeError)


@dataclass(eq=False)
class Server:
    client: openai.AsyncOpenAI
    memory: float  # seconds after which a failure is forgotten: a new one is then the first
    failing_since: float | None = None  # monotonic seconds of the first failure since the last success
    failed_at: float = 0.0
    probe_at: float = 0.0
    warn_at: float = 0.0  # when the next failure is worth a line

    def failed(self, now: float) -> None:
        if self.failing_since is None or now > self.failed_at + self.memory:
            self.failing_since = now
        self.failed_at, self.probe_at = now, now + PROBE_PAUSE


class ServerPool:
    """Servers that answer alike. Everybody who waits for a dead one shares one clock: it is waited for once.

    max_outage: seconds without success after which a call gives up. A reply may take any time: every `patience` seconds
    the server must say that it lives.
    """

    path = "/chat/completions"  # below an endpoint's /v1

    def __init__(
        self, what: str, endpoints: Sequence[str], max_outage: float, api_key: str, patience: float = PATIENCE
    ):
        limits = openai.Timeout(None, connect=10)
        self.what, self.max_outage, self.patience = what, max_outage, patience
        clients = [openai.AsyncOpenAI(base_url=u, timeout=limits, max_retries=0, api_key=api_key) for u in endpoints]
        self.servers = [Server(client, memory=60 + patience) for client in clients]

    async def close(self) -> None:
        for server in self.servers:
            await server.client.close()

    def pick(self, home: int, tried: set[Server]) -> Server:
        """The server `home` points at while it lives, else the next living one; a dead one is tried now and then."""
        ring = [self.servers[(home + step) % len(self.servers)] for step in range(len(self.servers))]
        untried = [server for server in ring if server not in tried]
        now = time.monotonic()
        for server in untried:
            if server.failing_since is None:
                return server
            if now >= server.probe_at:
                server.probe_at = now + PROBE_PAUSE
                return server
        return (untried or ring)[0]

    def checked(self, reply: Any, n: int) -> dict[str, Any]:
        """The reply if it holds n choices with text (or null) each. Raises Garbled."""
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list):
            raise Garbled(f"asked for {n} choices, the reply holds no chat completion")
        if len(choices) != n:
            raise WrongCount(f"asked for {n} choices, the reply holds {len(choices)}")
        for choice in choices:
            message = choice.get("message") if isinstance(choice, dict) else None
            if not isinstance(message, dict) or not isinstance(message.get("content"), (str, type(None))):
                raise Garbled("a choice of the reply holds no text")
        return reply

    async def reply(self, server: Server, request: dict[str, Any]) -> Any:
        """The server's answer. What a slow server has half drawn is not thrown away while the server lives."""
        # Not chat.completions.create: turning 16 choices into its typed objects and the request out of them takes more
        # time than all the rest of the client.
        call = asyncio.ensure_future(server.client.post(self.path, cast_to=object, body=request))
        try:
            while not (await asyncio.wait({call}, timeout=self.patience))[0]:
                await check_life(server.client)
            return await call
        finally:
            call.cancel()

    async def complete(self, home: int, **request: Any) -> dict[str, Any]:
        """One chat completion with `request['n']` choices (default 1), asked again with backoff until it comes.

        Raises Unreachable when no server is left to try and this call, or every server, has failed for max_outage
        seconds; Refused when it never will be answered; Fault when the server cannot be used (key, model name, `n`).
        """
        first_failure, pause, miscounted = None, 0.5, False
        tried: set[Server] = set()  # those that failed since the last pause
        while True:
            server = self.pick(home, tried)
            try:
                reply = self.checked(await self.reply(server, request), request.get("n", 1))
                server.failing_since = None
                return reply
            except PASSING as error:
                where, now = f"{self.what} {server.client.base_url}", time.monotonic()
                if miscounted and isinstance(error, WrongCount):  # once may be chance
                    raise Fault(f"{where}: {error}, again: a server that ignores `n` cannot be used") from None
                miscounted = isinstance(error, WrongCount)
                server.failed(now)
                tried.add(server)
                reason = readable(str(error))
                if now > server.warn_at:
                    server.warn_at = now + WARNING_PAUSE
                    tqdm.write(f"{where}: {reason}; asking again, for {self.max_outage:g} s at most", file=sys.stderr)
                first_failure = first_failure or now
                if any(other.failing_since is None and other not in tried for other in self.servers):
                    continue
                down = min(now - (other.failing_since or now) for other in self.servers)
                left = self.max_outage - max(now - first_failure, down)
                if left <= 0:
                    raise Unreachable(f"{where}: out of reach for {self.max_outage:g} s ({reason})") from None
            except openai.APIStatusError as error:
                where = f"{self.what} {server.client.base_url}"
                if error.status_code in (400, 413, 422):
                    raise Refused(f"{where}: refused ({readable(error.message)}); it would refuse it again") from None
                raise Fault(f"{where}: refused ({readable(error.message)})") from None
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, 30)
            tried.clear()


async def check_life(client: openai.AsyncOpenAI) -> None:
    """Raises one of PASSING when the server does not answer, or with a fault of its own (status 500 and more)."""
    try:
        await client.get("/models", cast_to=object, options={"timeout": 30})
    except openai.APIStatusError as error:
        if error.status_code >= 500:
            raise


def readable(message: str) -> str:
    """A server's message on one line: one that repeats the request repeats its pictures."""
    return _PICTURE.sub("(picture)", " ".join(message.split()))[:400]


def parse_endpoints(text: str) -> list[str]:
    """argparse type: `URL[,URL]` as base URLs ending in /v1."""
    urls = [url.strip().rstrip("/") for url in text.split(",") if url.strip()]
    for url in urls:
        if not re.fullmatch(r"https?://[^\s/:]+(:\d{1,5})?(/\S*)?", url):
            raise argparse.ArgumentTypeError(f"not a URL like http://host:8000/v1: {url!r}")
    if not urls:
        raise argparse.ArgumentTypeError("no URL given")
    return [url if url.endswith("/v1") else f"{url}/v1" for url in urls]


def add_endpoint_flag(parser: argparse.ArgumentParser) -> None:
    endpoint = os.environ.get("POLICY_ENDPOINT")
    parser.add_argument(
        "--policy_endpoint",
        required=not endpoint,
        default=endpoint or None,
        type=parse_endpoints,
        help="base URL(s) of servers of the policy, comma-separated; default: POLICY_ENDPOINT",
    )


def add_outage_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max_outage", type=non_negative, default=600, help="seconds that a server may stay out of reach"
    )


def image_part(path: str) -> dict[str, Any]:
    """One image as an entry of a chat message, a data URL that the server decodes to the pixels of `open_picture`.
    Raises Fault when it cannot be opened."""
    try:
        kind, data = picture_bytes(path)
    except OSError as error:  # it was there when it was looked at
        raise Fault(f"image {path}: {error.strerror}") from None
    except ValueError as error:
        raise Fault(f"image {error}") from None
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"}}
