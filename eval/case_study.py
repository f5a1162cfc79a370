"""Show a problem's best- and worst-scored candidate, step by step.

    python eval/case_study.py --input_file scored.json --output_dir cases \\
        --rule mean_odd

Writes a picture per problem, and cases.md. Unless --id names them, the problems
are those that the PRM gets right and the majority wrong, of different subjects
first, then filled up in the order of the file.
"""

from __future__ import annotations

import io
import textwrap
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from mm_prm import cli
from mm_prm.fields import whole_images
from mm_prm.files import write_atomic
from mm_prm.pictures import open_picture
from mm_prm.records import parse_scored, read_checked
from mm_prm.selection import AGGREGATIONS, HEADLINE, Candidates, aggregate

WIDTH, LINE = 84, 0.19  # of the text: characters, and inches per line
FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "SimHei", "PingFang SC")
Line = tuple[str, float | None, str]  # style (a key of STYLES), a step's score before its first line, text
STYLES: dict[str, dict[str, Any]] = {"question": {"style": "italic"}, "candidate": {"weight": "bold"}, "step": {}}


def width_of(line: str) -> int:
    """Characters that fit: Chinese, Japanese and Korean ones are twice as wide."""
    return WIDTH // 2 if any(unicodedata.east_asian_width(letter) in "WF" for letter in line) else WIDTH


def wrapped(style: str, text: str, score: float | None = None) -> list[Line]:
    """A text in lines that fit, the score before the first."""
    pieces = [piece for line in text.splitlines() for piece in textwrap.wrap(line, width_of(line))] or [""]
    return [(style, None if number else score, piece) for number, piece in enumerate(pieces)]


def best_and_worst(record: dict[str, Any], rule: str) -> dict[str, int]:
    """Numbers of the two candidates; the first of equals, and none without steps."""
    values = aggregate(rule, record["prm_scores"])
    order = sorted((n for n, steps in enumerate(record["prm_scores"]) if steps), key=lambda n: (-values[n], n))
    worst = [n for n in order if values[n] == values[order[-1]] and n != order[0]][:1]
    return {"best": order[0], **({"worst": worst[0]} if worst else {})} if order else {}


def is_won(record: dict[str, Any], rule: str) -> bool:
    """Whether the rule chooses a right candidate, in a tie whatever it takes, where a vote gives a wrong answer."""
    accuracy = Candidates.of(record).accuracies(len(record["labels"]))
    return accuracy[rule] == 1 and accuracy.get("majority", 0) == 0


def pick(records: list[dict[str, Any]], rule: str, count: int) -> list[dict[str, Any]]:
    """`count` records that have steps: won ones of different subjects, the other won ones, the others."""
    usable = [record for record in records if any(record["prm_scores"])]
    won = [record for record in usable if is_won(record, rule)]
    firsts = {str(record.get("subject") or number): record for number, record in reversed(list(enumerate(won)))}
    order = [*sorted(firsts.values(), key=won.index), *won, *usable]
    return list({id(record): record for record in order}.values())[:count]


def verdict(record: dict[str, Any], number: int) -> str:
    """What the judge said about a candidate; an undecided one counts as wrong."""
    if record.get("undecided") and record["undecided"][number]:
        return "undecided"
    return "right" if record["labels"][number] else "wrong"


def case_lines(record: dict[str, Any], rule: str) -> list[Line]:
    """What a case says: the question, then every step of both candidates behind its score."""
    lines = wrapped("question", record["question"])
    for name, number in best_and_worst(record, rule).items():
        scores = record["prm_scores"][number]
        value, said = aggregate(rule, [scores])[0], verdict(record, number)
        title = f"{name} of {len(record['labels'])} by {rule} ({value:.3g}): {said}"
        lines += [("step", None, ""), *wrapped("candidate", title)]
        for step, score in zip(record["solutions_splits"][number], scores, strict=True):
            lines += wrapped("step", step, score)
    return lines


def draw(lines: list[Line], images: list[str]) -> bytes:
    """A PNG: the images, one below the other, beside the text."""
    left, height = 3.2 if images else 0.0, max(LINE * (len(lines) + 2), 2.2 * len(images))
    figure = Figure(figsize=(left + 7.2, height))
    for number, path in enumerate(images):
        share = 1 / len(images)
        axes = figure.add_axes((0.01, 1 - (number + 0.95) * share, left / (left + 7.2) - 0.02, 0.9 * share))
        axes.axis("off")
        axes.set_anchor("N")
        axes.imshow(open_picture(path), interpolation="lanczos")
    for number, (style, score, text) in enumerate(lines, 1):
        x, y = (left + 0.1) / (left + 7.2), 1 - LINE * (number + 0.5) / height
        if score is not None:
            color = matplotlib.colormaps["coolwarm_r"](0.2 + 0.6 * score)
            box = {"facecolor": color, "linewidth": 0, "pad": 1.5}
            figure.text(x, y, f"{score:.2f}", fontsize=9, bbox=box)
        indent = 0.4 / (left + 7.2) if style == "step" else 0
        figure.text(x + indent, y, text, fontsize=9, parse_math=False, **STYLES[style])  # text is text, `$` too
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # no font here has it: drawn as a box
        figure.savefig(png, format="png", dpi=min(150, 60_000 / height), bbox_inches="tight")  # 65,536 is the limit
    return png.getvalue()


def markdown(record: dict[str, Any], lines: list[Line], picture: str) -> str:
    """One case. What others wrote stands in an indented block, which no text can leave."""
    facts = [f"{name}: {record[name]}" for name in ("id", "subject", "answer") if record.get(name) is not None]
    texts = [
        f"{'' if score is None else f'{score:.2f}':4}  {text}" if s == "step" else text for s, score, text in lines
    ]
    block = textwrap.indent("\n".join([*facts, "", *texts]), "    ", lambda line: True)
    return f"## {Path(picture).stem}\n\n![{Path(picture).stem}]({picture})\n\n{block}\n"


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="scored rollouts, from evaluate_prm.py")
    parser.add_argument("--output_dir", type=Path, required=True, help="gets case_1.png, ... and cases.md")
    parser.add_argument("--id", nargs="+", help="problems to show, instead of chosen ones")
    parser.add_argument("--count", type=cli.positive_int, default=3, help="number of problems to choose")
    rules = ", ".join(AGGREGATIONS)
    parser.add_argument("--rule", choices=AGGREGATIONS, default=HEADLINE, help=f"what best and worst are by: {rules}")
    parser.add_argument("--image_root", type=Path, help="folder of relative image paths; default: the input file's")
    args = parser.parse_args()
    root = args.image_root or args.input_file.parent
    records = read_checked(args.input_file, parse_scored)
    if missing := sorted(set(args.id or ()) - {record["id"] for record in records}):
        raise cli.BadInput(*(f"{args.input_file}: has no record with id {name!r}" for name in missing))
    by_id = {record["id"]: record for record in reversed(records)}
    cases = [by_id[name] for name in args.id] if args.id else pick(records, args.rule, args.count)
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", *({font.name for font in fontManager.ttflist} & {*FONTS})]
    text = f"# {len(cases)} cases from {args.input_file.name}, best and worst candidate by {args.rule}\n"
    if not cases:
        raise cli.BadInput(f"{args.input_file}: no candidate has steps")
    pictures = []
    for record in cases:
        try:
            pictures.append(whole_images(record.get("image_path"), root))
        except ValueError as error:
            raise cli.BadInput(f"{args.input_file}: id {record['id']}: {error}") from None
    for number, (record, images) in enumerate(zip(cases, pictures, strict=True), 1):
        lines, picture = case_lines(record, args.rule), f"case_{number}.png"
        write_atomic(args.output_dir / picture, draw(lines, images))
        text += "\n" + markdown(record, lines, picture)
    write_atomic(args.output_dir / "cases.md", text)
    print(f"{args.output_dir / 'cases.md'}: {', '.join(record['id'] for record in cases)}")


if __name__ == "__main__":
    cli.run(main)
