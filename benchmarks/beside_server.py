"""What the benchmarks that need a policy server have in common: how it is started, with a command beside it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def server_command(model: str | Path, port: int, name: str, context: int, *vllm: str) -> list[str]:
    """The command that serves a policy; what is to run beside it follows. name: of the log; context: tokens."""
    serve = [sys.executable, ROOT / "data_pipeline/serve_policy.py", "--model", model, "--port", port]
    serve += ["--log", f"{tempfile.gettempdir()}/{name}_server.log", "--max-model-len", context]
    return [*map(str, serve), "--limit-mm-per-prompt", '{"image": 1, "video": 0}', *vllm, "--"]
