"""Ask a multimodal model about every state of finished trees.

    python data_pipeline/mllm_as_a_judge.py --input_dir trees \\
        --output_dir judged_trees --api_endpoint http://127.0.0.1:8001/v1 \\
        --judge_model Qwen2.5-VL-72B-Instruct

Writes the same trees with a `judge_value` on every node but the root: P(Yes)
that its steps are right. traverse.py --consensus reads it. A tree that the same
model has judged is not judged again: run the same command to resume.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm_prm import cli
from mm_prm.journal import PARTIAL, Journal, remove_if_empty
from mm_prm.judge import Undecided, judge_pool
from mm_prm.prm_format import defuse
from mm_prm.prompts import STEP_JUDGE_TEMPLATE
from mm_prm.servers import ServerPool, add_outage_flag, image_part, parse_endpoints
from mm_prm.trees import Tree, each_tree, read_tree, write_tree
from mm_prm.work import work_through


@dataclass(frozen=True)
class TreeFile:
    id: str  # the problem's
    source: Path
    target: Path


def yes_probability(choice: dict[str, Any]) -> float | None:
    """P(Yes) / (P(Yes) + P(No)) for the first token of a reply, None when neither is among its likeliest tokens."""
    tokens = (choice.get("logprobs") or {}).get("content")
    if not tokens:
        raise cli.Fault("the step judge's server returns no log-probabilities")
    mass: defaultdict[str, float] = defaultdict(float)
    for token in tokens[0]["top_logprobs"]:
        mass[token["token"].strip().lower()] += math.exp(token["logprob"])
    total = mass["yes"] + mass["no"]
    return mass["yes"] / total if total else None


def fingerprint(tree: Tree) -> str:
    """md5 of a tree without what step judges add: a tree that was made anew must be judged anew."""
    data = tree.to_dict()
    todo = [data]
    while todo:
        node = todo.pop()
        node.pop("judge_value", None)
        todo += node["children"]
    data["search"] = {name: value for name, value in tree.search.items() if name != "step_judge"}
    return hashlib.md5(json.dumps(data).encode()).hexdigest()


class StepJudge:
    """asked: requests answered so far."""

    def __init__(self, pool: ServerPool, model: str):
        self.pool, self.model, self.asked = pool, model, 0

    async def value(self, tree: Tree, images: list[Any], before: tuple[str, ...], steps: list[str]) -> float:
        """The judge value of the state that adds `steps` to `before`. Raises Undecided, Unreachable or Fault."""
        texts = [tree.question, tree.answer, "\n".join(before) or "(none)", "\n".join(steps)]
        question, reference, previous, step = map(defuse, texts)
        prompt = STEP_JUDGE_TEMPLATE.format(question=question, reference=reference, previous=previous, step=step)
        reply = await self.pool.complete(
            hash(tree.id),  # a tree's requests share image and question: one server, whichever it is
            model=self.model,
            messages=[{"role": "user", "content": [*images, {"type": "text", "text": prompt}]}],
            temperature=0,
            max_tokens=1,
            logprobs=True,
            top_logprobs=20,
        )
        self.asked += 1
        value = yes_probability(reply["choices"][0])
        if value is None:
            raise Undecided(f"step judge {self.model}: neither Yes nor No about {steps!r}")
        return value

    async def judge(self, file: TreeFile) -> None:
        """Write the judged tree. Raises Busy when another process is at it; Fault keeps what was answered."""
        with Journal(file.target.parent / PARTIAL / f"{file.source.stem}.jsonl") as journal:
            tree = read_tree(file.source)
            made_from = {"model": self.model, "tree": fingerprint(tree)}
            judged = read_tree(file.target).search.get("step_judge") if file.target.exists() else None
            if judged != made_from:
                await self.fill(tree, journal, made_from)
                tree.search["step_judge"] = made_from
                write_tree(file.target, tree)
            journal.clear()

    async def fill(self, tree: Tree, journal: Journal, made_from: dict[str, str]) -> None:
        """Set judge_value on every node below the root, in depth-first order; the first ones may be in the journal."""
        values = [value for row in journal.rows if row["made_from"] == made_from for value in row["values"]]
        kept = len(values)
        images = [image_part(image) for image in tree.images]
        try:
            for number, (prefix, node) in enumerate(tree.root.walk()):
                if number > len(values):  # number 0 is the root
                    before = prefix[: len(prefix) - len(node.partial_solution)]
                    values.append(await self.value(tree, images, before, node.partial_solution))
                if number:
                    node.judge_value = values[number - 1]
        except BaseException:
            if values[kept:]:
                journal.append({"made_from": made_from, "values": values[kept:]})
            raise


async def judge_trees(args: argparse.Namespace, files: list[TreeFile]) -> None:
    judge = StepJudge(judge_pool(args), args.judge_model)
    try:
        await work_through(
            files,
            judge.judge,
            args.concurrency,
            "judging",
            lambda seconds: f"{judge.asked / max(seconds, 1e-9):.1f} states/s",
        )
    finally:
        await judge.pool.close()
        print(f"{judge.asked} replies of {args.judge_model}", flush=True)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of tree files")
    parser.add_argument("--output_dir", type=Path, help="folder for the judged trees; default: the same files")
    parser.add_argument("--api_endpoint", type=parse_endpoints, required=True, help="base URL(s) of the judge's server")
    parser.add_argument("--judge_model", required=True, help="name of the multimodal model there")
    parser.add_argument("--concurrency", type=cli.positive_int, default=64, help="trees in flight at once")
    add_outage_flag(parser)
    args = parser.parse_args()
    output = args.output_dir or args.input_dir
    files = [TreeFile(tree.id, path, output / path.name) for path, tree in each_tree(args.input_dir)]
    try:
        asyncio.run(judge_trees(args, files))
    finally:
        remove_if_empty(output / PARTIAL)


if __name__ == "__main__":
    cli.run(main)
