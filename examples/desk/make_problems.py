"""Make the desk-scale study's problems, pictures and teacher solutions.

    python examples/desk/make_problems.py --output_dir runs/desk/data

Writes images/*.png, annotate.json, dev.json and test.json (seed format), each
with the moves of the right solutions (*_truth.json, for step_truth.py),
sft.jsonl (the teacher's solutions to the training problems), read.jsonl (only
their first step: read the picture) and the dataset files sft_meta.json and
read_meta.json. The numbers are in the picture alone. The teacher makes a
conceptual slip with probability --slip_rate, so a policy taught by it knows
right and wrong ways, and its majority vote can be wrong. No problem is in two
splits: a hash of a problem's content decides the split it may be in.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm
from wordings import Move, most_wordings, say_all

from mm_prm import cli
from mm_prm.files import write_json, write_jsonl
from mm_prm.prm_format import render_solution
from mm_prm.prompts import policy_prompt
from mm_prm.records import dataset_entry

SIZE, PATCH = 112, 14  # pixels; one digit fills one 14-pixel patch of the vision tower, so that a tiny one can read it
FONT = ImageFont.load_default(size=13)
SMALL = ImageFont.load_default(size=10)
INK, LINE = (25, 25, 25), (90, 90, 90)
FILLS = [(174, 205, 240), (190, 226, 190), (250, 215, 170), (235, 200, 225), (205, 200, 240)]

Numbers = tuple[int, ...]
Solution = tuple[list[Move], int]  # and the answer


@dataclass(frozen=True)
class Family:
    """One kind of problem. slips: ways to go wrong, the first three times as likely as the others together."""

    draw: Callable[[ImageDraw.ImageDraw, Numbers, random.Random], None]
    sample: Callable[[random.Random], Numbers]
    question: Callable[[Numbers, str], str]
    solve: Callable[[Numbers, str], Solution]
    slips: tuple[Callable[[Numbers, str], Solution], ...]


# ---------------------------------------------------------------- pictures


def number(draw: ImageDraw.ImageDraw, column: int, row: int, value: int) -> None:
    """Write a one- or two-digit number with its units in patch (column + 1, row), its tens in (column, row)."""
    for offset, digit in zip((0.62, 1.4), f"{value:2d}", strict=True):  # as close as two patches allow
        draw.text(((column + offset) * PATCH, (row + 0.5) * PATCH), digit, fill=INK, font=FONT, anchor="mm")


def draw_bars(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """A bar chart of A, B and C, the value on top of each bar."""
    fill = rng.choice(FILLS)
    base = 7 * PATCH - 2
    for level in range(1, 6):
        draw.line((12, base - level * PATCH, SIZE - 4, base - level * PATCH), fill=(232, 232, 232))
    for index, value in enumerate(numbers):
        left, top_row = 14 + index * 2 * PATCH + PATCH // 2, 5 - round(value / 15 * 4)
        draw.rectangle((left + 4, (top_row + 1) * PATCH - 1, left + 24, base), fill=fill, outline=LINE)
        draw.rectangle((left + 1, top_row * PATCH, left + 27, (top_row + 1) * PATCH - 2), fill=(255, 255, 255))
        draw.text((left + 14, base + 8), "ABC"[index], fill=INK, font=SMALL, anchor="mm")
    for index, value in enumerate(numbers):
        number(draw, 2 * index + 1, 5 - round(value / 15 * 4), value)
    draw.line((10, 6, 10, base), fill=LINE)
    draw.line((10, base, SIZE - 3, base), fill=LINE)


def draw_quadrilateral(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """A four-sided figure with three angles given and the fourth called x."""
    corners = [
        (x + rng.randint(-3, 3), y + rng.randint(-3, 3)) for x, y in ((7, 8), (SIZE - 8, 8), (SIZE - 8, 104), (7, 104))
    ]
    draw.polygon(corners, fill=(248, 246, 236), outline=LINE, width=2)
    for (column, row), value in zip(((1, 1), (5, 1), (5, 6)), numbers, strict=True):
        number(draw, column, row, value)
        draw.text(((column + 2) * PATCH + 1, row * PATCH + 1), "°", fill=INK, font=SMALL)
    draw.text((2 * PATCH, 6.5 * PATCH), "x", fill=INK, font=FONT, anchor="mm")


def draw_l_shape(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """An L made of two rectangles: the upright part a by b, the foot c by d, sides written along the edges."""
    a, b, c, d = numbers
    left, middle, right, top, step, bottom = 2 * PATCH, 4 * PATCH, 7 * PATCH - 2, PATCH + 2, 4 * PATCH, 6 * PATCH + 10
    outline = [(left, top), (middle, top), (middle, step), (right, step), (right, bottom), (left, bottom)]
    draw.polygon(outline, fill=rng.choice(FILLS), outline=LINE, width=2)
    for y in range(step, bottom, 6):
        draw.line((middle, y, middle, y + 3), fill=LINE)
    for column, row, value in ((1, 0, a), (-1, 3, b), (4, 7, c), (6, 5, d)):
        number(draw, column, row, value)


def draw_table(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """A shopping list with count and price; numbers = (count, price) of pens, caps, bags, then the two rows asked."""
    draw.rectangle((2, 1, SIZE - 3, 2 * PATCH - 4), fill=rng.choice(FILLS))
    for x, title in ((56, "count"), (92, "price")):
        draw.text((x, 12), title, fill=INK, font=SMALL, anchor="mm")
    for index, item in enumerate(ITEMS):
        row = 2 + 2 * index
        draw.text((5, (row + 0.5) * PATCH), item, fill=INK, font=SMALL, anchor="lm")
        number(draw, 3, row, numbers[2 * index])
        number(draw, 5, row, numbers[2 * index + 1])
        draw.line((2, (row + 1.5) * PATCH, SIZE - 3, (row + 1.5) * PATCH), fill=(190, 190, 190))
    draw.rectangle((2, 1, SIZE - 3, SIZE - 8), outline=LINE)
    draw.line((36, 1, 36, SIZE - 8), fill=LINE)


def draw_field(draw: ImageDraw.ImageDraw, numbers: Numbers, rng: random.Random) -> None:
    """A field with four sides, the lengths written inside along each side."""
    corners = [
        (x + rng.randint(-4, 4), y + rng.randint(-4, 4)) for x, y in ((9, 9), (SIZE - 9, 7), (SIZE - 8, 103), (8, 104))
    ]
    draw.polygon(corners, fill=(226, 240, 214), outline=LINE, width=2)
    for (column, row), value in zip(((3, 1), (5, 3), (3, 6), (1, 4)), numbers, strict=True):
        number(draw, column, row, value)


# ---------------------------------------------------------------- problems, right ways and slips

ITEMS = ("pens", "caps", "bags")
THINGS = ("books", "stamps", "coins", "cards")


def add(*terms: int) -> list[Move]:
    """a + b = s, s + c = t, ...: one move per addition."""
    moves, total = [], terms[0]
    for term in terms[1:]:
        moves.append(Move("+", (total, term, total + term)))
        total += term
    return moves


def take(a: int, b: int) -> Move:
    return Move("-", (a, b, a - b))


def times(a: int, b: int) -> Move:
    return Move("x", (a, b, a * b))


def bar_total(n: Numbers, thing: str, terms: Numbers | None = None) -> Solution:
    terms = terms or n
    answer = sum(terms)
    return [Move("read_bars", n, (thing,)), *add(*terms), Move("say_all", (answer,), (thing,))], answer


def bar_more(n: Numbers, thing: str, how: str = "subtract") -> Solution:
    a, b, c = n
    together = a + b
    last, answer = {
        "subtract": ([take(together, c)], together - c),
        "add": (add(together, c), together + c),
        "stop": ([], together),
    }[how]
    return [Move("read_bars", n, (thing,)), *add(a, b), *last, Move("say_more", (answer,), (thing,))], answer


def fourth_angle(n: Numbers, thing: str, used: int = 3, stop: bool = False) -> Solution:
    total = sum(n[:used])
    last, answer = ([], total) if stop else ([take(360, total)], 360 - total)
    return [Move("read_angles", n), *add(*n[:used]), *last, Move("say_angle", (answer,))], answer


def l_area(n: Numbers, thing: str, how: str = "area") -> Solution:
    a, b, c, d = n
    middle, answer = {
        "area": ([times(a, b), times(c, d), *add(a * b, c * d)], a * b + c * d),
        "add sides": ([*add(a, b), *add(c, d), *add(a + b, c + d)], a + b + c + d),
        "one part": ([times(a, b)], a * b),
    }[how]
    return [Move("read_parts", n), *middle, Move("say_area", (answer,))], answer


def table_cost(n: Numbers, thing: str, how: str = "both") -> Solution:
    first, second = n[6], n[7]
    (count1, price1), (count2, price2) = n[2 * first : 2 * first + 2], n[2 * second : 2 * second + 2]
    read = Move("read_prices", (count1, price1, count2, price2), (ITEMS[first], ITEMS[second]))
    middle, answer = {
        "both": (
            [times(count1, price1), times(count2, price2), *add(count1 * price1, count2 * price2)],
            count1 * price1 + count2 * price2,
        ),
        "no counts": (add(price1, price2), price1 + price2),
        "first only": ([times(count1, price1)], count1 * price1),
    }[how]
    return [read, *middle, Move("say_cost", (answer,))], answer


def perimeter(n: Numbers, thing: str, terms: Numbers | None = None) -> Solution:
    terms = terms or n
    answer = sum(terms)
    return [Move("read_sides", n), *add(*terms), Move("say_fence", (answer,))], answer


def _draws(low: int, high: int, count: int, step: int = 1) -> Callable[[random.Random], Numbers]:
    return lambda rng: tuple(rng.randrange(low, high + 1, step) for _ in range(count))


def _sample_more(rng: random.Random) -> Numbers:
    while True:
        a, b, c = _draws(2, 15, 3)(rng)
        if a + b > c + 1:
            return a, b, c


def _sample_table(rng: random.Random) -> Numbers:
    return (*_draws(2, 8, 6)(rng), *sorted(rng.sample(range(3), 2)))


FAMILIES: dict[str, Family] = {
    "bar_total": Family(
        draw_bars,
        _draws(2, 15, 3),
        lambda n, thing: f"How many {thing} do A, B and C have in all?",
        bar_total,
        (lambda n, t: bar_total(n, t, n[:2]), lambda n, t: bar_total(n, t, (n[0], n[1], n[1]))),
    ),
    "bar_more": Family(
        draw_bars,
        _sample_more,
        lambda n, thing: f"How many more {thing} do A and B have together than C?",
        bar_more,
        (lambda n, t: bar_more(n, t, "add"), lambda n, t: bar_more(n, t, "stop")),
    ),
    "fourth_angle": Family(
        draw_quadrilateral,
        _draws(35, 95, 3, 5),
        lambda n, thing: "Find the angle x of the figure in degrees.",
        fourth_angle,
        (lambda n, t: fourth_angle(n, t, used=2), lambda n, t: fourth_angle(n, t, stop=True)),
    ),
    "l_area": Family(
        draw_l_shape,
        _draws(2, 8, 4),
        lambda n, thing: "Find the area of the L-shape in square cm.",
        l_area,
        (lambda n, t: l_area(n, t, "add sides"), lambda n, t: l_area(n, t, "one part")),
    ),
    "table_cost": Family(
        draw_table,
        _sample_table,
        lambda n, thing: f"What do the {ITEMS[n[6]]} and the {ITEMS[n[7]]} cost together in dollars?",
        table_cost,
        (lambda n, t: table_cost(n, t, "no counts"), lambda n, t: table_cost(n, t, "first only")),
    ),
    "perimeter": Family(
        draw_field,
        _draws(2, 15, 4),
        lambda n, thing: "How long is the fence around the field in m?",
        perimeter,
        (lambda n, t: perimeter(n, t, n[:3]), lambda n, t: perimeter(n, t, (n[0], n[1], n[0] + n[1]))),
    ),
}


# ---------------------------------------------------------------- splits and files

# Share of all problem contents a split may draw from, in hundredths of the hash space.
SPLITS = {"train": range(0, 70), "annotate": range(70, 82), "dev": range(82, 88), "test": range(88, 100)}


def split_of(family: str, numbers: Numbers) -> str:
    bucket = int(hashlib.md5(f"{family} {numbers}".encode()).hexdigest(), 16) % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


@dataclass(frozen=True)
class Made:
    """A problem that was made: its family, the numbers in its picture and the thing counted."""

    family: str
    numbers: Numbers
    thing: str


def make_split(split: str, count: int, seed: int) -> list[Made]:
    """`count` problems with distinct content, the families in turn. Raises BadInput when a family runs out."""
    rng = random.Random(f"{seed} {split}")
    made: dict[tuple[str, Numbers], Made] = {}
    names = list(FAMILIES)
    for index in range(count):
        name = names[index % len(names)]
        family = FAMILIES[name]
        for _ in range(100_000):
            numbers = family.sample(rng)
            answers = [solve(numbers, "")[1] for solve in (family.solve, *family.slips)]
            if split_of(name, numbers) == split and (name, numbers) not in made and answers[0] not in answers[1:]:
                break
        else:
            raise cli.BadInput(f"family {name} has no {split} problem left after {index} problems: ask for fewer")
        made[name, numbers] = Made(name, numbers, rng.choice(THINGS))
    return list(made.values())


def teach(problem: Made, slip_rate: float, rng: random.Random) -> Solution:
    """One solution of the teacher: right, or with probability slip_rate a conceptual slip."""
    family = FAMILIES[problem.family]
    if rng.random() >= slip_rate:
        return family.solve(problem.numbers, problem.thing)
    weights = [3.0 * (len(family.slips) - 1)] + [1.0] * (len(family.slips) - 1)
    return rng.choices(family.slips, weights)[0](problem.numbers, problem.thing)


def truth(problems: list[Made], split: str) -> dict[str, dict[str, object]]:
    """By the problem's id, what the picture holds and the right solution's moves: for step_truth.py."""
    found: dict[str, dict[str, object]] = {}
    for index, problem in enumerate(problems):
        moves, answer = FAMILIES[problem.family].solve(problem.numbers, problem.thing)
        steps = [{"kind": move.kind, "numbers": move.numbers} for move in moves]
        found[f"{split}-{index:05d}"] = {"family": problem.family, "moves": steps, "answer": answer}
    return found


def draw_problem(problem: Made) -> Image.Image:
    """The picture of a problem, 112 x 112 RGB; the same problem always gives the same picture."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    rng = random.Random(str(problem))
    FAMILIES[problem.family].draw(ImageDraw.Draw(image), problem.numbers, rng)
    return image


def write_problems(folder: Path, split: str, problems: list[Made]) -> list[dict[str, str]]:
    """Draw every picture and return the seed records."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for index, problem in enumerate(tqdm(problems, desc=f"drawing {split}", unit="problem")):
        family = FAMILIES[problem.family]
        name = f"images/{split}-{index:05d}.png"
        draw_problem(problem).save(folder / name)
        records.append(
            {
                "id": f"{split}-{index:05d}",
                "question": family.question(problem.numbers, problem.thing),
                "correct_answer": str(family.solve(problem.numbers, problem.thing)[1]),
                "image_path": name,
                "subject": problem.family,
            }
        )
    return records


def sft_row(record: dict[str, str], reply: str) -> dict[str, object]:
    prompt = "<image>\n" + policy_prompt(record["question"])
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": reply}]
    return {"id": record["id"], "image": record["image_path"], "conversations": turns}


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write to")
    for flag, count in (("--train", 4000), ("--annotate", 400), ("--dev", 150), ("--test", 300)):
        parser.add_argument(flag, type=cli.whole_number, default=count, help=f"number of {flag[2:]} problems")
    parser.add_argument("--solutions", type=cli.positive_int, default=2, help="teacher solutions per training problem")
    parser.add_argument("--slip_rate", type=float, default=0.6, help="how often the teacher's method is wrong")
    parser.add_argument(
        "--wordings", type=cli.positive_int, default=1, help=f"ways to say a step, at most {most_wordings()}"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides problems and solutions")
    args = parser.parse_args()
    if args.wordings > most_wordings():
        parser.error(f"--wordings: at most {most_wordings()}")
    for split in ("annotate", "dev", "test"):
        problems = make_split(split, getattr(args, split), args.seed)
        write_json(args.output_dir / f"{split}.json", write_problems(args.output_dir, split, problems))
        write_json(args.output_dir / f"{split}_truth.json", truth(problems, split))
    rng = random.Random(f"{args.seed} teacher")
    problems = make_split("train", args.train, args.seed)
    records = write_problems(args.output_dir, "train", problems)
    rows: dict[str, list[dict[str, object]]] = {"sft": [], "read": []}
    for problem, record in zip(problems, records, strict=True):
        for _ in range(args.solutions):
            moves, answer = teach(problem, args.slip_rate, rng)
            steps = say_all(moves, args.wordings, rng)
            rows["sft"].append(sft_row(record, render_solution(steps, str(answer))))
        rows["read"].append(sft_row(record, f"<step>{steps[0]}</step>"))
    for name, part in rows.items():
        write_jsonl(args.output_dir / f"{name}.jsonl", part)
        entry = dataset_entry(args.output_dir, args.output_dir / f"{name}.jsonl", len(part))
        write_json(args.output_dir / f"{name}_meta.json", {f"desk_{name}": entry})
    print(f"{args.output_dir}: {len(rows['sft'])} teacher solutions to {len(problems)} training problems")


if __name__ == "__main__":
    cli.run(main)
