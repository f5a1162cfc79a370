"""Show search trees in one HTML page that needs no server and no network.

    python data_pipeline/tools/view_trees.py --input_dir outputs/trees \\
        --output_file trees.html [--scores scored.json]

Each problem with its picture, the states of its tree, any path as a solution.
--scores shows a PRM's score beside every step it has scored. The file is one
that evaluate_prm.py wrote; a step is found by its problem's id and the exact
text of all steps up to it, so any candidates of the same problems will do.
--write_rollouts writes the trees' own rollouts as candidates, for
evaluate_prm.py to score.
"""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mm_prm import cli
from mm_prm.files import write_atomic, write_json
from mm_prm.pictures import data_uri
from mm_prm.records import outcome_fields, parse_scored, read_checked
from mm_prm.trees import Tree, each_tree

MAX_SIDE = 800  # pixels; a larger picture is scaled down
Table = dict[tuple[int, str], tuple[int, float]]  # (number of a prefix, next step) -> (number of the longer one, score)


def score_tables(scored: list[dict[str, Any]]) -> dict[str, Table]:
    """The scores of each problem's step prefixes. Prefix 0 is the empty one; of equal prefixes the first counts."""
    tables: dict[str, Table] = {}
    for record in scored:
        table = tables.setdefault(record["id"], {})
        for steps, scores in zip(record["solutions_splits"], record["prm_scores"], strict=True):
            prefix = 0
            for step, score in zip(steps, scores, strict=True):
                prefix, _ = table.setdefault((prefix, step), (len(table) + 1, round(score, 4)))
    return tables


def tree_data(tree: Tree, table: Table) -> dict[str, Any]:
    """What the page shows of a tree, its nodes depth first.

    A step is its number in `texts`, `up` the parent's number, a rollout [steps, scores, how often it came, is it
    right?], the last null where it is undecided.
    """
    numbers: dict[str, int] = {}
    nodes: list[dict[str, Any]] = []

    def spelled(prefix: int, steps: list[str]) -> tuple[int, list[int], list[float | None]]:
        scores = []
        for step in steps:
            prefix, score = table.get((prefix, step), (-1, None))
            scores.append(score)
        return prefix, [numbers.setdefault(step, len(numbers)) for step in steps], scores

    stack = [(tree.root, -1, 0)]  # a node, its parent's number, the prefix before it
    while stack:
        node, up, before = stack.pop()
        prefix, steps, scores = spelled(before, node.partial_solution)
        drawn = [(*found, key) for key in (True, False, None) for found in zip(*node.drawn(key), strict=True)]
        rollouts = [[*spelled(prefix, rollout)[1:], count, verdict] for rollout, count, verdict in drawn]
        stack += [(child, len(nodes), prefix) for child in reversed(node.children)]
        state = {"up": up, "steps": steps, "prm": scores, "rollouts": rollouts, "visits": node.visit_count}
        counts = {"mc": node.mc_value, "right": node.num_correct, "drawn": node.num_rollouts, "judge": node.judge_value}
        nodes.append(state | counts | {"undecided": node.undecided})
    head = {"question": tree.question, "answer": tree.answer, "search": tree.search, "texts": list(numbers)}
    return head | {"nodes": nodes, "images": [data_uri(image, MAX_SIDE) for image in tree.images]}


def rollouts_record(tree: Tree) -> dict[str, Any]:
    """All distinct rollouts of a tree, from the first step on, as the candidates of its problem."""
    found = {steps: verdict for _, steps, _, verdict in tree.root.rollouts()}
    record = {"id": tree.id, "question": tree.question, "image_path": tree.images, "answer": tree.answer}
    return record | {"solutions_splits": list(found), **outcome_fields(found.values())}


def page(index: dict[str, Any], trees: list[bytes]) -> str:
    """The template with its policy and data. A tree is gzip in base64: no text of it can begin or end a tag."""
    html = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    for tag in ("style", "script"):  # nothing else in the page may style or run
        [code] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        html = html.replace(f"{tag}-hash", f"sha256-{b64encode(sha256(code.encode()).digest()).decode()}")
    blocks = {"index": json.dumps(index).replace("<", "\\u003c")}
    blocks |= {f"tree-{number}": b64encode(tree).decode() for number, tree in enumerate(trees)}
    data = (f'<script type="text/plain" id="{name}">{text}</script>\n' for name, text in blocks.items())
    return html.replace("<!-- data -->\n", "".join(data))


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of trees (*.json)")
    parser.add_argument("--output_file", type=Path, required=True, help="the page, one HTML file")
    parser.add_argument("--scores", type=Path, help="scored rollouts of the same problems")
    parser.add_argument("--limit", type=cli.positive_int, help="only the first N trees, in the order of their ids")
    parser.add_argument("--write_rollouts", type=Path, help="also write the trees' rollouts, for evaluate_prm.py")
    args = parser.parse_args()
    tables = score_tables(read_checked(args.scores, parse_scored)) if args.scores else {}
    trees = sorted(each_tree(args.input_dir), key=lambda item: str(item[1].id))[: args.limit]
    rows, packed, bad, scored = [], [], [], 0
    for path, tree in tqdm(trees, unit="tree", mininterval=1):
        try:
            data = tree_data(tree, tables.get(tree.id, {}))
            packed.append(gzip.compress(json.dumps(data, allow_nan=False).encode(), mtime=0))
            rows.append({"id": tree.id, "mc": tree.root.mc_value, "states": len(data["nodes"])})
            scored += sum(score is not None for node in data["nodes"] for score in node["prm"])
        except (ValueError, TypeError) as error:
            bad.append(f"{path}: {error}")
    if bad or args.scores and not scored:
        unfit = f"{args.scores}: no score fits these trees (other problems or steps): score --write_rollouts's file"
        raise cli.BadInput(*bad or [unfit])
    if args.write_rollouts:
        write_json(args.write_rollouts, [rollouts_record(tree) for _, tree in trees])
    write_atomic(args.output_file, page({"prm": args.scores and args.scores.name, "trees": rows}, packed))
    states = sum(row["states"] for row in rows)
    print(f"{args.output_file}: {len(rows)} trees, {states} states, a score at {scored} of their steps")


if __name__ == "__main__":
    cli.run(main)
