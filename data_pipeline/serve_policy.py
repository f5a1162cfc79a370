"""Serve a checkpoint with vLLM while a command runs.

    python data_pipeline/serve_policy.py --model policy_checkpoint --port 8000 \\
        -- python data_pipeline/run_data_pipeline.py ... --model policy

Everything after `--` is the command; it starts once all servers are healthy,
with their URLs in POLICY_ENDPOINT, and its exit code is this script's. The
servers stop whatever happens. Unknown flags before `--` go to vLLM. Every GPU,
or group of --tensor-parallel-size GPUs, gets a server of its own: a problem
stays on one server, whose prefix cache then holds what it needs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mm_prm import cli
from mm_prm.cpu import cpu_dtype
from mm_prm.vllm_plugin import SPIN

SPREADS = re.compile(r"-(dp|pp|-(data|pipeline)[-_]parallel)")  # flags by which one vLLM server takes many GPUs
CPU_FLAGS = [
    "--enforce-eager",  # compiling costs minutes on a CPU
    # A partial prefill rewinds the generator of a request that brings its own seed, which vLLM 0.32 cannot do on a CPU
    # ("CPU Generator does not use offset"): the engine dies.
    "--no-enable-chunked-prefill",
    "--block-size=32",  # the default of 128 tokens hides short common prefixes from the prefix cache
    "--max-num-seqs=512",
]


def visible_gpus() -> list[str]:
    """Ids of the NVIDIA GPUs this process may use, none without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [str(index) for index in range(listed.stdout.count("GPU "))] if listed.returncode == 0 else []


def cpu_flags() -> list[str]:
    """vLLM's flags on a machine without a GPU."""
    return [*CPU_FLAGS, f"--dtype={cpu_dtype()}"]


def cpu_variables() -> dict[str, str]:
    """Threads and processes that wait asleep: spinning ones fight with the client and whatever else runs for the same
    few cores."""
    asleep = {"OMP_WAIT_POLICY": "PASSIVE", SPIN: "0"}
    return {name: os.environ.get(name, value) for name, value in asleep.items()}


def gpu_groups(gpus: list[str], size: int, replicas: int | None, extra: Sequence[str]) -> list[list[str]]:
    """The GPUs of every server: `size` each, or all of them when vLLM is to spread itself; none on a CPU machine."""
    if not gpus:
        return [[]] * (replicas or 1)
    if any(SPREADS.match(flag) for flag in extra):
        size = len(gpus)
    count = replicas or max(len(gpus) // size, 1)  # too few GPUs for one server: vLLM says what is wrong
    if replicas and replicas * size > len(gpus):
        raise cli.BadInput(f"--replicas {replicas}: each needs {size} GPUs of its own, {len(gpus)} are visible")
    if idle := gpus[count * size :]:
        print(f"idle GPUs: {','.join(idle)} ({count} policy servers on {size} each)", flush=True)
    return [gpus[index * size : (index + 1) * size] for index in range(count)]


@dataclass(frozen=True)
class Server:
    command: list[str]
    port: int
    log: Path
    gpus: Sequence[str] = ()  # empty: not pinned


def servers_from_flags(args: argparse.Namespace, extra: Sequence[str]) -> list[Server]:
    """The vLLM servers. The module form is used because the CPU build's `vllm` command does not start."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", args.model]
    command += ["--served-model-name", args.name, "--host", "127.0.0.1"]
    command += ["--tensor-parallel-size", str(args.tensor_parallel_size)]
    groups = gpu_groups(visible_gpus(), args.tensor_parallel_size, args.replicas, extra)
    servers = []
    for index, gpus in enumerate(groups):
        port, log = args.port + index, args.log.with_stem(f"{args.log.stem}_{index}")
        flags = ["--port", str(port), *([] if gpus else cpu_flags()), *extra]
        servers.append(Server(command + flags, port, log if len(groups) > 1 else args.log, gpus))
    return servers


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            raise cli.BadInput(f"port {port} is in use: choose another with --port (scripts: PORT=...)") from None


def log_tail(path: Path, lines: int = 15) -> str:
    return "\n  ".join(["", *path.read_text(errors="replace").splitlines()[-lines:]])


def is_healthy(port: int) -> bool:
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is no way to this machine
    try:
        local.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
        return True
    except OSError:
        return False


def wait_until_healthy(servers: Sequence[Server], timeout: float, check: Callable[[], None]) -> None:
    """Poll /health. Raises Fault with the end of a server's log when it takes too long."""
    deadline, waiting = time.monotonic() + timeout, list(servers)
    while waiting:
        check()
        log = waiting[0].log
        if is_healthy(waiting[0].port):
            waiting.pop(0)
        elif time.monotonic() < deadline:
            time.sleep(0.5)
        else:
            raise cli.Fault(f"the policy server was not healthy after {timeout:g} s; end of {log}:{log_tail(log)}")


def stop(processes: Sequence[subprocess.Popen], patience: float = 20) -> None:
    """SIGTERM to the processes and all they started, then SIGKILL to whatever is left of them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start(command: list[str], log: Path | None, variables: Mapping[str, str]) -> subprocess.Popen:
    """Start a process in a group of its own; with a log, both its outputs go there."""
    env = {**os.environ, **variables}
    # A command's bare `python` is the one that runs this, whether its environment is active or not.
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    env["MM_PRM_DIE_WITH_PARENT"] = "1"  # scripts that the command starts in turn
    env["no_proxy"] = ",".join(filter(None, [env.get("no_proxy"), "127.0.0.1"]))
    env.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    env.setdefault("VLLM_NO_USAGE_STATS", "1")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= 4:  # vLLM would keep one core free for its front end: too much on a small machine
        env.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") if log else contextlib.nullcontext() as file:
        return subprocess.Popen(
            command, env=env, stdout=file, stderr=file, start_new_session=True, preexec_fn=cli.die_with_parent
        )


def serve_while(command: list[str], servers: Sequence[Server], timeout: float) -> int:
    """Run `command` beside the servers; returns its exit code. Raises Fault when a server dies before all are healthy,
    or the last one while the command runs: the client moves a dead server's problems to the living."""
    for server in servers:
        check_port(server.port)
    processes: list[subprocess.Popen] = []
    alive: dict[subprocess.Popen, Server] = {}
    signals: list[int] = []

    def check(spare: bool = False) -> None:
        # The handler only takes a note: an exception raised in it would be lost inside a fork.
        if signals:
            raise SystemExit(128 + signals[0])
        for process in [process for process in alive if process.poll() is not None]:
            server = alive.pop(process)
            processes.remove(process)
            stop([process])  # what it left behind; later its id may be another's
            death = f"the policy server on port {server.port} died (exit code {process.returncode})"
            if not (spare and alive):
                raise cli.Fault(f"{death}; end of {server.log}:{log_tail(server.log)}")
            print(f"warning: {death}, {len(alive)} left; its log: {server.log}", file=sys.stderr, flush=True)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: signals.append(number))
    try:
        for server in servers:
            variables = {"CUDA_VISIBLE_DEVICES": ",".join(server.gpus)} if server.gpus else cpu_variables()
            processes.append(start(server.command, server.log, variables))
            alive[processes[-1]] = server
            print(f"waiting for the policy server on port {server.port} (log: {server.log})", flush=True)
        started = time.monotonic()
        wait_until_healthy(servers, timeout, check)
        print(f"{len(servers)} policy server(s) healthy after {time.monotonic() - started:.0f} s", flush=True)
        endpoints = ",".join(f"http://127.0.0.1:{server.port}/v1" for server in servers)
        child = start(command, None, {"POLICY_ENDPOINT": endpoints})
        processes.append(child)
        while child.poll() is None:
            check(spare=True)
            time.sleep(0.2)
        return child.returncode
    finally:
        stop(processes)


def main() -> None:
    own = sys.argv[1:]
    command = own[own.index("--") + 1 :] if "--" in own else []
    parser = cli.Parser(__doc__)
    parser.add_argument("--model", required=True, help="checkpoint folder to serve")
    parser.add_argument("--name", default="policy", help="name under which it is served")
    parser.add_argument(
        "--port", type=int, choices=range(1, 65536), metavar="PORT", default=8000, help="the first server's port"
    )
    parser.add_argument(
        *("-tp", "--tensor-parallel-size", "--tensor_parallel_size"),
        type=cli.positive_int,
        default=1,
        help="GPUs per server",
    )
    parser.add_argument("--replicas", type=cli.positive_int, help="number of servers; default: as the GPUs allow")
    parser.add_argument("--log", type=Path, default=Path("policy_server.log"), help="output (several: numbered)")
    parser.add_argument("--startup_timeout", type=float, default=1800, help="seconds until all must be healthy")
    args, extra = parser.parse_known_args(own[: own.index("--")] if "--" in own else own)
    if not command:
        parser.error("no command given after --")
    if not (Path(args.model) / "config.json").is_file():
        raise cli.BadInput(f"--model {args.model}: no checkpoint there (config.json is missing)")
    code = serve_while(command, servers_from_flags(args, extra), args.startup_timeout)
    raise SystemExit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    cli.run(main)
