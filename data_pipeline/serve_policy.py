"""Serve a checkpoint with vLLM while a command runs, and stop the server whatever happens.

    python data_pipeline/serve_policy.py --model policy_checkpoint --port 8000 -- \\
        python data_pipeline/run_data_pipeline.py ... --policy_endpoint http://127.0.0.1:8000/v1 --model policy

Everything after `--` is the command; it starts once the server is healthy, and its exit code is this script's.
Unknown flags before `--` go to vLLM. On several GPUs the server runs one replica per GPU unless told otherwise.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from mm_prm import cli

PARALLEL = re.compile(r"-(dp|tp|-(data|tensor)[-_]parallel[-_]size)\b")
CPU_FLAGS = [
    "--enforce-eager",  # compiling costs minutes on a CPU
    # A partial prefill rewinds the generator of a request that brings its own seed, which vLLM 0.32 cannot do on a CPU
    # ("CPU Generator does not use offset"): the engine dies.
    "--no-enable-chunked-prefill",
    "--block-size=32",  # the default of 128 tokens hides short common prefixes from the prefix cache
    "--max-num-seqs=512",
]


def gpu_count() -> int:
    """Number of NVIDIA GPUs this process may use, 0 without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 0
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def server_command(model: str, name: str, port: int, extra: Sequence[str]) -> list[str]:
    """The vLLM command line. The module form is used because the CPU build's `vllm` command does not start."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)]
    gpus = gpu_count()
    if gpus == 0:
        command += CPU_FLAGS
    elif gpus > 1 and not any(PARALLEL.match(flag) for flag in extra):
        command += ["--data-parallel-size", str(gpus)]
    return [*command, *extra]


Check = Callable[[subprocess.Popen], None]


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            raise cli.BadInput(f"port {port} is in use: choose another with --port (scripts: PORT=...)") from None


def log_tail(path: Path, lines: int = 15) -> str:
    return "\n  ".join(["", *path.read_text(errors="replace").splitlines()[-lines:]])


def wait_until_healthy(server: subprocess.Popen, port: int, log: Path, timeout: float, check: Check) -> None:
    """Poll /health. Raises Fault with the end of the server's log when it dies or takes too long."""
    deadline = time.monotonic() + timeout
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy is no way to this machine
    while time.monotonic() < deadline:
        check(server)
        try:
            with local.open(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise cli.Fault(f"the policy server was not healthy after {timeout:g} s; end of {log}:{log_tail(log)}")


def stop(process: subprocess.Popen, patience: float = 20) -> None:
    """SIGTERM to the process and all it started, then SIGKILL to whatever is left of them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start(command: list[str], log: Path | None) -> subprocess.Popen:
    """Start a process in a group of its own; with a log, both its outputs go there."""
    env = os.environ.copy()
    env["MM_PRM_DIE_WITH_PARENT"] = "1"  # scripts that the command starts in turn
    env["no_proxy"] = ",".join(filter(None, [env.get("no_proxy"), "127.0.0.1"]))
    env.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    env.setdefault("VLLM_NO_USAGE_STATS", "1")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if 0 < len(cores) <= 4:  # vLLM would keep one core free for its front end: too much on a small machine
        env.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    if log is None:
        return subprocess.Popen(command, env=env, start_new_session=True, preexec_fn=cli.die_with_parent)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=env, stdout=file, stderr=file, start_new_session=True, preexec_fn=cli.die_with_parent
        )


def serve_while(command: list[str], server_cmd: list[str], port: int, log: Path, timeout: float) -> int:
    """Run `command` beside the server; returns its exit code. Raises Fault when the server dies first."""
    check_port(port)
    processes: list[subprocess.Popen] = []
    signals: list[int] = []

    def check(server: subprocess.Popen) -> None:
        # The handler only takes a note: an exception raised in it would be lost inside a fork.
        if signals:
            raise SystemExit(128 + signals[0])
        if server.poll() is not None:
            raise cli.Fault(f"the policy server died (exit code {server.returncode}); end of {log}:{log_tail(log)}")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: signals.append(number))
    try:
        server = start(server_cmd, log)
        processes.append(server)
        print(f"waiting for the policy server on port {port} (log: {log})", flush=True)
        started = time.monotonic()
        wait_until_healthy(server, port, log, timeout, check)
        print(f"the policy server is healthy after {time.monotonic() - started:.0f} s", flush=True)
        child = start(command, None)
        processes.append(child)
        while child.poll() is None:
            check(server)
            time.sleep(0.2)
        return child.returncode
    finally:
        for process in reversed(processes):
            stop(process)


def main() -> None:
    own = sys.argv[1:]
    command = own[own.index("--") + 1 :] if "--" in own else []
    parser = cli.Parser(__doc__)
    parser.add_argument("--model", required=True, help="checkpoint folder to serve")
    parser.add_argument("--name", default="policy", help="name under which it is served")
    parser.add_argument(
        "--port", type=int, choices=range(1, 65536), metavar="PORT", default=8000, help="port on 127.0.0.1"
    )
    parser.add_argument("--log", type=Path, default=Path("policy_server.log"), help="the server's output goes here")
    parser.add_argument("--startup_timeout", type=float, default=1800, help="seconds until the server must be healthy")
    args, extra = parser.parse_known_args(own[: own.index("--")] if "--" in own else own)
    if not command:
        parser.error("no command given after --")
    if not (Path(args.model) / "config.json").is_file():
        raise cli.BadInput(f"--model {args.model}: no checkpoint there (config.json is missing)")
    server = server_command(args.model, args.name, args.port, extra)
    code = serve_while(command, server, args.port, args.log, args.startup_timeout)
    raise SystemExit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    cli.run(main)
