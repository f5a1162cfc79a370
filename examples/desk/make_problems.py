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

from desk_pictures import ITEMS, SIZE, Numbers, draw_bars, draw_field, draw_l_shape, draw_quadrilateral, draw_table
from PIL import Image, ImageDraw
from tqdm import tqdm
from wordings import Move, most_wordings, say_all

from mm_prm import cli
from mm_prm.files import write_json, write_jsonl
from mm_prm.prm_format import render_solution
from mm_prm.prompts import policy_prompt
from mm_prm.records import dataset_entry

Solution = tuple[list[Move], int]  # and the answer


@dataclass(frozen=True)
class Family:
    """One kind of problem. slips: ways to go wrong, the first three times as likely as the others together."""

    draw: Callable[[ImageDraw.ImageDraw, Numbers, random.Random], None]
    sample: Callable[[random.Random], Numbers]
    question: Callable[[Numbers, str], str]
    solve: Callable[[Numbers, str], Solution]
    slips: tuple[Callable[[Numbers, str], Solution], ...]


# ---------------------------------------------------------------- problems, right ways and slips

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
    parser.add_argument("--slip_rate", type=cli.fraction, default=0.6, help="how often the teacher's method is wrong")
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
