"""Which PRM scores a guided search: loaded here, or behind a server."""

from __future__ import annotations

import argparse
import os
from typing import Any

from mm_prm import cli
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
        default=8.0,
        help="memory for what the loaded PRM has read; problems that outgrow it are read anew",
    )
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")


def prm_from_flags(args: argparse.Namespace) -> Any:
    """GrowingPrm, or ServedPrm where there is an endpoint."""
    if args.prm_endpoint:
        from guided.served import PrmServers, ServedPrm
        from mm_prm.prm_model import load_processor, yes_no_ids

        tokenizer = load_processor(args.checkpoint).tokenizer
        servers = PrmServers("PRM", args.prm_endpoint, args.max_outage, os.environ.get("PRM_API_KEY", "none"))
        return ServedPrm(servers, tokenizer, *yes_no_ids(tokenizer).tolist())
    from guided.growing import GrowingPrm, tokens_in
    from mm_prm.prm_model import Prm

    prm = Prm.load(args.checkpoint, dtype=args.dtype)
    return GrowingPrm(prm, tokens_in(args.cache_gib, prm.model))
