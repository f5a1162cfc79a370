"""Which PRM scores a guided search: loaded here, or behind a server."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mm_prm import cli
from mm_prm.prm_format import PRM_TEXTS
from mm_prm.servers import parse_endpoints


def add_prm_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the PRM")
    group.add_argument("--checkpoint", required=True, help="PRM checkpoint folder")
    group.add_argument(
        "--prm_endpoint",
        type=parse_endpoints,
        help="servers of that PRM (eval/prm/serve_prm.md), comma-separated; default: it is loaded here",
    )
    group.add_argument(
        "--cache_gib",
        type=cli.non_negative,
        help="memory for what the loaded PRM has read, beyond it texts are read anew; default: half of what is free on "
        "its GPU, 4 on a CPU",
    )
    group.add_argument("--text", choices=list(PRM_TEXTS), default="training", help="as of evaluate_prm.py")
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")


def prm_from_flags(args: argparse.Namespace) -> Any:
    """GrowingPrm, or ServedPrm where there is an endpoint."""
    from mm_prm.prm import Prm
    from mm_prm.prm_model import load_processor

    text = PRM_TEXTS[args.text]
    if args.prm_endpoint:
        from guided.served import PrmServers, ServedPrm

        servers = PrmServers("PRM", args.prm_endpoint, args.max_outage, os.environ.get("PRM_API_KEY", "none"))
        return ServedPrm(servers, load_processor(args.checkpoint), text)
    from guided.growing import GrowingPrm, tokens_in

    prm = Prm.load(args.checkpoint, text.separator, dtype=args.dtype, closes_user=text.closes_user)
    return GrowingPrm(prm, tokens_in(args.cache_gib, prm.model))


def prm_run(args: argparse.Namespace, prm: Any) -> dict[str, Any]:
    """Which PRM it is: scores of another one are not gone on with."""
    written = os.stat(os.path.join(args.checkpoint, "config.json")).st_mtime_ns
    how = "served" if args.prm_endpoint else str(prm.prm.model.dtype)
    return {"checkpoint": os.path.abspath(args.checkpoint), "written": written, "dtype": how, "text": args.text}
