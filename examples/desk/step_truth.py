"""Which steps of desk candidates are right: a step benchmark for step_errors.py.

    python examples/desk/step_truth.py --input_file rollouts_test.json \\
        --truth data/test_truth.json --output_file steps_test.json

A step is right when it is the right solution's next one: it reads the picture's
numbers, or computes what has to be computed next without a slip, or says the
right answer. Said otherwise, with the terms of a sum or product exchanged, or
two at once, it still is. From a solution's first wrong step on, all are wrong.
The input's records come out with `step_labels` (1 right, 0 wrong) and what else
step_errors.py reads; scored records stay scored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordings import COMPUTE, JOINER

from mm_prm import cli
from mm_prm.files import read_object, write_json
from mm_prm.records import parse_rollouts, read_checked

WORDS = {
    "+": ("plus", "sum", "add", "adding"),
    "-": ("minus", "difference", "subtract", "subtracting", "less", "taking"),
    "x": ("times", "product", "multiply", "multiplying"),
}
SIGN_OF = {word: sign for sign, words in WORDS.items() for word in (sign, *words)}
TOKEN = re.compile(r"\d+|[a-z]+|[+-]")

# What a step says: the sign of its computation, if it has one, and its numbers in order
Said = tuple[str | None, tuple[int, ...]]


def read(text: str) -> Said:
    """An `x` between two numbers is a sign, else a name."""
    tokens = TOKEN.findall(text.lower())
    signs = []
    for before, token, behind in zip([""] + tokens, tokens, [*tokens[1:], ""], strict=False):
        if token in SIGN_OF and (token != "x" or (before.isdigit() and behind.isdigit())):
            signs.append(SIGN_OF[token])
    return signs[0] if signs else None, tuple(int(token) for token in tokens if token.isdigit())


def is_move(said: Said, move: dict[str, Any]) -> bool:
    """Is that what this move of the right solution does?"""
    sign, numbers = said
    if move["kind"] not in COMPUTE:
        return sign is None and numbers == tuple(move["numbers"])
    first, second, result = move["numbers"]
    orders = [(first, second, result), (result, first, second)]
    if move["kind"] != "-":
        orders += [(second, first, result), (result, second, first)]
    else:
        orders += [(second, first, result)]  # taking b from a leaves c
    return sign == move["kind"] and numbers in orders


def right_steps(steps: Sequence[str], moves: Sequence[dict[str, Any]], answer: int) -> list[int]:
    """1 or 0 for each step of a solution; the answer, where there is one, is the last."""
    left, labels = list(moves), list[int]()
    for step in steps:
        right = not labels or labels[-1] == 1
        if right and not left:
            right = step.strip() == str(answer)
        elif right:
            for part in step.split(JOINER):
                right = right and bool(left) and is_move(read(part), left.pop(0))
        labels.append(int(right))
    return labels


def labelled(record: dict[str, Any], truths: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError where the problem is not among the truths."""
    if (truth := truths.get(record["id"])) is None:
        raise ValueError(f"field 'id': {record['id']} is not in --truth")
    labels = [right_steps(steps, truth["moves"], truth["answer"]) for steps in record["solutions_splits"]]
    return record | {"benchmark": "processbench", "source": "desk", "step_labels": labels}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="candidates, scored or not")
    parser.add_argument("--truth", type=Path, nargs="+", required=True, help="*_truth.json of make_problems.py")
    parser.add_argument("--output_file", type=Path, required=True, help="the same with step_labels")
    args = parser.parse_args()
    truths = {id_: truth for path in args.truth for id_, truth in read_object(path).items()}
    records = read_checked(args.input_file, lambda record: labelled(parse_rollouts(record), truths))
    write_json(args.output_file, records)
    steps = [label for record in records for labels in record["step_labels"] for label in labels]
    wrong = sum(0 in labels for record in records for labels in record["step_labels"])
    print(f"{args.output_file}: {len(steps)} steps, {sum(steps)} right; {wrong} solutions with a wrong step")


if __name__ == "__main__":
    cli.run(main)
