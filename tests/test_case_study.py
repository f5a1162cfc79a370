"""Case studies: which problems are shown, what their text says, and pictures of any text."""

import json

import pytest
from case_study import best_and_worst, case_lines, draw, markdown, pick
from conftest import run_forked
from PIL import Image

SCRIPT = "eval/case_study.py"


def record_of(id_, scores, labels, answers=None, **fields):
    splits = [[f"step {n}" for n in range(len(steps))] for steps in scores]
    record = {"id": id_, "question": "x?", "image_path": None, "answer": "1", "solutions_splits": splits}
    return {**record, "labels": labels, "prm_scores": scores, **({"answers": answers} if answers else {}), **fields}


def won(id_, **fields):
    """The rule takes the third candidate, which is right; the majority is wrong."""
    return record_of(id_, [[0.1], [0.2], [0.9]], [0, 0, 1], ["2", "2", "1"], **fields)


def test_won_problems_of_different_subjects_come_first_then_the_others_in_order():
    records = [
        record_of("none", [[], [], []], [0, 0, 0], ["", "", ""]),
        record_of("lost", [[0.9], [0.2], [0.1]], [0, 0, 1], ["2", "2", "1"]),
        won("a1", subject="algebra"),
        won("a2", subject="algebra"),
        record_of("majority too", [[0.9], [0.2], [0.1]], [1, 1, 0], ["1", "1", "2"]),
        won("g1", subject="geometry"),
        record_of("tied", [[0.9], [0.2], [0.9]], [1, 0, 0], ["1", "2", "2"]),
        won("unknown"),
    ]
    order = ["a1", "g1", "unknown", "a2", "lost", "majority too", "tied"]
    assert [record["id"] for record in pick(records, "min", 9)] == order
    assert [record["id"] for record in pick(records, "min", 2)] == order[:2]


def test_best_and_worst_are_the_first_of_equals_and_have_steps():
    assert best_and_worst(record_of("a", [[], [0.5], [0.9, 0.2], [0.5], [0.2]], [1] * 5), "min") == {
        "best": 1,
        "worst": 2,
    }
    assert best_and_worst(record_of("a", [[0.5], []], [1, 1]), "mean_odd") == {"best": 0}
    assert best_and_worst(record_of("a", [[0.5], [0.5]], [1, 1]), "last") == {"best": 0, "worst": 1}


def test_an_undecided_candidate_is_called_so():
    record = record_of("a", [[0.9], [0.5], [0.2]], [0, 1, 0], undecided=[1, 0, 0])
    said = [text for style, _, text in case_lines(record, "min") if style == "candidate"]
    assert said == ["best of 3 by min (0.9): undecided", "worst of 3 by min (0.2): wrong"]


def test_a_case_is_told_step_by_step():
    record = record_of("a", [[0.9, 0.5], [0.25]], [1, 0], subject="algebra", question="Find $x$.\n# Now")
    record["solutions_splits"] = [["word " * 20, "二" * 43], ["![](http://x)"]]
    lines = case_lines(record, "min")
    assert lines == [
        ("question", None, "Find $x$."),
        ("question", None, "# Now"),
        ("step", None, ""),
        ("candidate", None, "best of 2 by min (0.5): right"),
        ("step", 0.9, " ".join(["word"] * 17)),
        ("step", None, " ".join(["word"] * 3)),
        ("step", 0.5, "二" * 42),
        ("step", None, "二"),
        ("step", None, ""),
        ("candidate", None, "worst of 2 by min (0.25): wrong"),
        ("step", 0.25, "![](http://x)"),
    ]
    text = markdown(record, lines, "case_1.png").splitlines()
    assert text[:4] == ["## case_1", "", "![case_1](case_1.png)", ""]
    assert all(line.startswith("    ") for line in text[4:])  # a code block: nothing in it acts
    assert text[4:10] == [
        f"    {line}" for line in ("id: a", "subject: algebra", "answer: 1", "", "Find $x$.", "# Now")
    ]
    assert text[-1] == "    0.25  ![](http://x)"


@pytest.fixture
def scored(tmp_path):
    for index in range(2):
        Image.new("RGB", (40, 30), (200, 0, index)).save(tmp_path / f"p{index}.png")
    odd = record_of("odd", [[0.0, 0.5, 1.0], [0.3]], [1, 0], question="已知 $\\frac{ 求 $\\bad$")
    odd["solutions_splits"][0] = ["$x_1 \\" * 30, "", "a\x00b\tc _{^ 😀"]
    records = [
        odd,
        {**odd, "id": "two", "image_path": ["p0.png", "p1.png"]},
        {**odd, "id": "gone", "image_path": "no.png"},
    ]
    (tmp_path / "scored.json").write_text(json.dumps(records))
    return tmp_path / "scored.json"


def test_any_text_and_number_of_images_is_drawn(scored, tmp_path):
    out = tmp_path / "out"
    done = run_forked(SCRIPT, "--input_file", scored, "--output_dir", out, "--id", "two", "odd")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{out / 'cases.md'}: two, odd\n"
    assert sorted(path.name for path in out.iterdir()) == ["case_1.png", "case_2.png", "cases.md"]
    with Image.open(out / "case_1.png") as two, Image.open(out / "case_2.png") as none:
        reds = [sum(r > 150 and g == 0 for r, g, _ in image.convert("RGB").getdata()) for image in (two, none)]
        assert reds[0] > 10_000 and reds[1] < 1_000


def test_a_picture_is_the_same_every_time():
    lines = case_lines(record_of("a", [[0.5]], [1]), "min")
    assert draw(lines, []) == draw(lines, [])


def test_an_unknown_id_and_a_missing_image_are_named(scored, tmp_path):
    args = ("--input_file", scored, "--output_dir", tmp_path / "out")
    done = run_forked(SCRIPT, *args, "--id", "odd", "nobody")
    assert (done.returncode, done.stderr) == (2, f"error: {scored}: has no record with id 'nobody'\n")
    done = run_forked(SCRIPT, *args, "--id", "gone")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {scored}: id gone: field 'image_path': {tmp_path / 'no.png'}")
    assert not (tmp_path / "out").exists()
