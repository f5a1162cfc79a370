"""What another busy process costs training and serving on a CPU, and what helps.

    python benchmarks/busy_cpu.py train                        # 4 minutes
    python benchmarks/busy_cpu.py serve --problems dev.json    # 10 minutes

Training steps of the desk model (32 paths of 8 problems), or 16 candidates for
every problem of a seed file from a vLLM server of the desk base, alone and
beside processes that do nothing but count. Every way runs in a process of its
own, its idle and its busy rows one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from beside_server import server_command

from mm_prm import cli

ROOT = Path(__file__).parent.parent
BASE = ROOT / "examples/desk/base"
# name: environment, and whether threads follow the free cores
WAYS: dict[str, tuple[dict[str, str], bool]] = {
    "as torch has it": ({}, False),
    "OMP_WAIT_POLICY=PASSIVE": ({"OMP_WAIT_POLICY": "PASSIVE"}, False),
    "GOMP_SPINCOUNT=10000": ({"GOMP_SPINCOUNT": "10000"}, False),
    "OMP_NUM_THREADS=1": ({"OMP_NUM_THREADS": "1"}, False),
    "threads for the free cores (ours)": ({}, True),
}
# The server sets PASSIVE by itself (data_pipeline/serve_policy.py): the first row takes that back (libgomp's default).
SERVING_WAYS: dict[str, dict[str, str]] = {
    "as vLLM has it": {"GOMP_SPINCOUNT": "300000"},
    "OMP_WAIT_POLICY=PASSIVE (ours)": {},
    "one thread, not bound": {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"},
}


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def train(args: argparse.Namespace) -> None:
    """Print seconds a step for every number of busy processes: one way, in this process."""
    import torch

    from mm_prm.cpu import Threads
    from mm_prm.packing import Packed
    from mm_prm.prm_format import Encoded
    from mm_prm.prm_model import load_model, row_tensors, soft_label_loss

    model, draw = load_model(str(BASE), torch.float32).train(), random.Random(0)
    row, threads = Packed(), Threads()
    for _ in range(8):
        head = [model.config.image_token_id] * 16 + draw.choices(range(20, 400), k=40)
        paths = [head + draw.choices(range(20, 400), k=64) for _ in range(4)]
        row.add([Encoded(ids, list(range(len(head) + 7, len(ids), 8))) for ids in paths])
    batch = row_tensors(row, [torch.randn(8, 3, 112, 112)])
    vocabulary, optimizer = torch.tensor([1, 2]), torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        if args.adjust:
            threads.adjust()
        logits = model(**batch, vocabulary=vocabulary)
        soft_label_loss(logits, torch.full((len(logits),), 0.5)).backward()
        optimizer.step()
        optimizer.zero_grad()

    for processes in args.busy:
        with busy(processes):
            for _ in range(4):  # also the time in which the busy processes are noticed
                step()
            start = time.monotonic()
            for _ in range(args.steps):
                step()
            print(f"row {(time.monotonic() - start) / args.steps:.3f}", flush=True)


def draw(args: argparse.Namespace) -> None:
    """Print rollouts a second for every number of busy processes: beside one server."""
    script, settings = ROOT / "eval/generate_rollouts.py", "--model policy --judge rule --prefix_mode prefill"
    settings += " --repetition_penalty 1.0 --max_new_tokens 160 --concurrency 128 --num_rollouts 16"
    for processes in (None, *args.busy):  # first once without counting
        with busy(processes or 0), tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, script, "--data", args.problems, "--output_file", f"{folder}/rollouts.json"]
            start = time.monotonic()
            done = subprocess.run([*map(str, command), *settings.split()], capture_output=True, text=True, check=True)
            count = 16 * int(done.stdout.split(" problems")[0].split()[-1])
        if processes is not None:
            print(f"row {count / (time.monotonic() - start):.1f}", flush=True)


def rows(command: list[str], environment: dict[str, str]) -> list[float]:
    """The numbers that a run of one way prints."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise cli.Fault(f"{' '.join(command)}: {done.stderr[-500:]}")
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("row ")]


def table(args: argparse.Namespace) -> None:
    unit = "seconds a step" if args.what == "train" else "rollouts/s"
    print(f"| {unit} | " + " | ".join(f"beside {count} busy" if count else "idle" for count in args.busy) + " |")
    print("|---" * (1 + len(args.busy)) + "|")
    own = [sys.executable, __file__, args.what, "--one", "--busy", *map(str, args.busy), "--steps", str(args.steps)]
    for name in WAYS if args.what == "train" else SERVING_WAYS:
        if args.what == "train":
            environment, adjust = WAYS[name]
            command = [*own, *(["--adjust"] if adjust else [])]
        else:
            environment = SERVING_WAYS[name]
            server = server_command(BASE, args.port, "busy_cpu", 512)
            command = [*server, *own, "--problems", str(args.problems.absolute())]
        found = rows(command, environment)
        print(f"| {name} | " + " | ".join(f"{value:.4g}" for value in found) + " |", flush=True)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("what", choices=("train", "serve"), help="what runs beside the busy processes")
    parser.add_argument("--busy", type=cli.whole_number, nargs="+", default=[0, 1], help="busy processes beside it")
    parser.add_argument("--steps", type=cli.positive_int, default=20, help="training steps of a row")
    parser.add_argument("--problems", type=Path, help="serve: seed file with desk problems")
    parser.add_argument("--port", type=int, default=28377, help="serve: of the server")
    parser.add_argument("--one", action="store_true", help="measure one way in this process (used by itself)")
    parser.add_argument("--adjust", action="store_true", help="with --one: threads follow the free cores")
    args = parser.parse_args()
    if args.what == "serve" and not args.problems:
        parser.error("serve needs --problems")
    (table if not args.one else train if args.what == "train" else draw)(args)


if __name__ == "__main__":
    cli.run(main)
