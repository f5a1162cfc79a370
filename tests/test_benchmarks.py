"""Published rows as problems: small files in the published schemas, whole records out."""

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import run_forked
from fake_server import ChatServer
from PIL import Image

from benchmarks import BENCHMARKS, read_benchmark
from mm_prm.answers import glance, normalise
from mm_prm.cli import BadInput, Fault
from mm_prm.tables import file_stem, hub_table

PICTURE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})


def picture(colour, kind="PNG"):
    """A picture as the hub's data sets store it; its path must never be used."""
    data = io.BytesIO()
    Image.new("RGB", (4, 3), (colour, 0, 0)).save(data, kind)
    return {"bytes": data.getvalue(), "path": "../../evil.png"}


def write_parquet(path, rows):
    """Picture columns get the hub's type: pyarrow cannot know it where all of them are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    for index, name in enumerate(table.column_names):
        if any(isinstance(row[name], dict) and "bytes" in row[name] for row in rows) or name.startswith("image_"):
            table = table.set_column(index, name, pyarrow.array([row[name] for row in rows], PICTURE))
    pyarrow.parquet.write_table(table, path, row_group_size=2)


def records(problems):
    return [problem.record for problem in problems]


OLYMPIAD = {
    "id": 2231,
    "question": "Find $x$ in <image_1> and <image_2>.",
    "solution": ["..."],
    "final_answer": ["$2$", "$\\frac{1}{3}$"],
    "context": "Let $x>0$.",
    "image_1": picture(1),
    "image_2": picture(2, "JPEG"),
    "image_3": None,
    "modality": "Multimodal",
    "difficulty": "Competition",
    "is_multiple_answer": True,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
    "question_type": "Open-ended",
    "subfield": "Geometry",
    "subject": "Math",
    "language": "English",
}
VISTA_META = {"grade": "college", "source": "FunctionQA", "task": "textbook", "skills": ["algebraic reasoning"]}
VISTA = {
    "pid": "5",
    "question": "The derivative at x=2 is ____ that at x=5",
    "image": "images/5.jpg",
    "decoded_image": picture(1),
    "choices": ["larger than", "equal to", "smaller than"],
    "unit": None,
    "precision": None,
    "answer": "equal to",
    "question_type": "multi_choice",
    "answer_type": "text",
    "metadata": VISTA_META,
    "query": "Hint: ...\nQuestion: ...\nChoices:\n(A) larger than\n(B) equal to\n(C) smaller than",
}
VISTA_FREE = VISTA | {
    "pid": "7",
    "choices": None,
    "unit": "$",
    "precision": 2.0,
    "answer": "1.45",
    "question_type": "free_form",
    "answer_type": "float",
    "query": "Hint: ... two decimal places ...\nQuestion: How much? (Unit: $)",
}
VERSE = {
    "sample_index": "1",
    "problem_index": "1",
    "problem_version": "Text Dominant",
    "question": "In triangle ABC ...",
    "image": picture(1),
    "answer": "D",
    "question_type": "multi-choice",
    "metadata": {"split": "testmini", "source": "GeoQA+", "subject": "Plane Geometry", "subfield": "Angle"},
    "query_wo": "Please directly answer ...",
    "query_cot": "Please first conduct reasoning ...\nQuestion: In triangle ABC ...\nChoices:\nA:40°\nD:140°",
    "question_for_eval": "In triangle ABC ...",
}
VERSE_ONLY = VERSE | {
    "sample_index": "5",
    "problem_version": "Vision Only",
    "question": "",
    "query_cot": "According to the question shown in the image, please first conduct reasoning ...",
}
VISION = {
    "id": "3",
    "question": "Which kite has the longest string?\n<image1>",
    "options": ["A", "B", "C", "D", "E"],
    "image": "images/3.jpg",
    "decoded_image": picture(1),
    "answer": "C",
    "solution": None,
    "level": 1,
    "subject": "metric geometry - length",
}
VISION_CHOICES = VISION | {"id": "4", "question": "How many?", "options": ["$7$", "8", "9", "10", "11"], "answer": "A"}
VISION_FREE = VISION | {"id": "5", "options": [], "answer": "25", "level": 5}


def test_mm_k12(tmp_path, capsys):
    rows = [
        {"question": " What is x? ", "answer": "40", "image": picture(1)},
        {"question": "Which?\nA. 1\nB. 2", "answer": "B", "image": picture(2)},
    ]
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", rows[:1])
    problems = read_benchmark("k12_prm", tmp_path, False, tmp_path / "out")
    assert records(problems) == [
        {"id": "0", "question": "What is x?", "correct_answer": "40", "image_path": "images_k12_prm/0_1.png"},
        {"id": "1", "question": "Which?\nA. 1\nB. 2", "correct_answer": "B", "image_path": "images_k12_prm/1_1.png"},
    ]
    assert [Path(problem.images[0]).read_bytes() for problem in problems] == [row["image"]["bytes"] for row in rows]
    assert capsys.readouterr().err == "warning: k12_prm: 2 problems, 500 were published\n"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images_k12_prm").iterdir()}
    assert read_benchmark("k12_prm", tmp_path, False, tmp_path / "out") == problems
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out/images_k12_prm").iterdir()}


def test_olympiadbench_has_several_pictures(tmp_path):
    other = OLYMPIAD | {"id": 7, "context": None, "final_answer": ["3"], "image_2": None}
    write_parquet(tmp_path / "OlympiadBench/OE_MM_maths_en_COMP/OE_MM_maths_en_COMP.parquet", [OLYMPIAD, other])
    problems = read_benchmark("olympiadbench_prm", tmp_path, False, tmp_path)
    assert records(problems) == [
        {
            "id": "2231",
            "question": "Let $x>0$.\n\nFind $x$ in [image 1] and [image 2].",
            "correct_answer": "2, \\frac{1}{3}",
            "subject": "Geometry",
            "level": "Competition",
            "image_path": ["images_olympiadbench_prm/2231_1.png", "images_olympiadbench_prm/2231_2.jpeg"],
        },
        {
            "id": "7",
            "question": "Find $x$ in [image 1] and [image 2].",
            "correct_answer": "3",
            "subject": "Geometry",
            "level": "Competition",
            "image_path": "images_olympiadbench_prm/7_1.png",
        },
    ]
    given = [glance(normalise(problems[0].answer), normalise(text)) for text in ("\\frac{1}{3}, 2", "2")]
    assert given[0] == "same" != given[1]


def test_mathvista(tmp_path):
    write_parquet(tmp_path / "data/testmini-00000-of-00001-725687bf7a18d64b.parquet", [VISTA, VISTA_FREE])
    write_parquet(tmp_path / "data/test-00000-of-00002-6b81bd7f7e2065e6.parquet", [VISTA])
    details = {"subject": "textbook", "level": "college", "source": "FunctionQA"}
    assert records(read_benchmark("mathvista_prm", tmp_path, False, tmp_path)) == [
        {"id": "5", "question": VISTA["query"], "correct_answer": "B. equal to", **details}
        | {"image_path": "images_mathvista_prm/5_1.png"},
        {"id": "7", "question": VISTA_FREE["query"], "correct_answer": "1.45", **details}
        | {"image_path": "images_mathvista_prm/7_1.png"},
    ]


def test_mathvista_json_with_pictures_as_files(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/5.jpg").write_bytes(picture(1, "JPEG")["bytes"])
    row = {name: value for name, value in VISTA.items() if name != "decoded_image"}
    (tmp_path / "testmini.json").write_text(json.dumps({"5": row}))
    problems = read_benchmark("mathvista_prm", tmp_path, False, tmp_path / "out")
    assert problems[0].record["image_path"] == "../images/5.jpg"
    assert problems[0].images == [str(tmp_path / "images/5.jpg")]


def test_mathverse_keeps_the_problem_of_every_version(tmp_path):
    write_parquet(tmp_path / "testmini.parquet", [VERSE, VERSE_ONLY])
    write_parquet(tmp_path / "testmini_text_only.parquet", [VERSE])
    details = {"subject": "Plane Geometry", "source": "GeoQA+", "problem_index": "1"}
    assert records(read_benchmark("mathverse_prm", tmp_path, False, tmp_path)) == [
        {"id": "1", "question": VERSE["query_cot"], "correct_answer": "D", **details}
        | {"problem_version": "Text Dominant", "image_path": "images_mathverse_prm/1_1.png"},
        {"id": "5", "question": VERSE_ONLY["query_cot"], "correct_answer": "D", **details}
        | {"problem_version": "Vision Only", "image_path": "images_mathverse_prm/5_1.png"},
    ]


def test_mathvision(tmp_path):
    write_parquet(tmp_path / "test-00000-of-00001-3532b8d3f1b4047a.parquet", [VISION, VISION_CHOICES, VISION_FREE])
    write_parquet(tmp_path / "testmini-00000-of-00001-f8ff70fcb2f29b1d.parquet", [VISION])
    got = records(read_benchmark("mathvision_prm", tmp_path, False, tmp_path))
    assert got[0] == {
        "id": "3",
        "question": "Which kite has the longest string?\n[image 1]",
        "correct_answer": "C",
        "subject": "metric geometry - length",
        "level": 1,
        "image_path": "images_mathvision_prm/3_1.png",
    }
    assert got[1]["question"] == "How many?\n(A) $7$\n(B) 8\n(C) 9\n(D) 10\n(E) 11"
    assert [record["correct_answer"] for record in got] == ["C", "A. 7", "25"] and got[2]["level"] == 5


def test_a_choice_is_right_as_letter_and_as_value():
    assert [glance("A. 7", normalise(answer)) for answer in ("A", "(A)", "(A) $7$", "a. 7", "$7$", "B", "(B) 8")] == (
        ["same"] * 5 + ["different"] * 2
    )
    assert glance("B. equal to", "equal to") == "same" and glance("B. equal to", "larger than") == "unsure"


def test_every_bad_row_is_named(tmp_path):
    bad = [
        VISION | {"answer": "F"},
        VISION | {"id": "a", "decoded_image": None, "image": None},
        VISION | {"id": "b", "decoded_image": {"bytes": b"no picture", "path": None}},
        VISION | {"id": "c", "question": None},
        VISION | {"id": "d"},
        VISION | {"id": "d"},
        VISION | {"id": None},
        VISION | {"id": "e", "options": [], "answer": " "},
    ]
    write_parquet(tmp_path / "test.parquet", bad)
    with pytest.raises(BadInput) as error:
        read_benchmark("mathvision_prm", tmp_path, False, tmp_path)
    file = tmp_path / "test.parquet"
    assert error.value.problems == (
        f"{file}: record 1 (id 3): field 'answer': 'F' is none of the 5 choices",
        f"{file}: record 2 (id a): field 'decoded_image' is missing",
        f"{file}: record 3 (id b): field 'image_path': picture 1 cannot be opened as an image (no known format)",
        f"{file}: record 4 (id c): field 'question' is missing or of the wrong type",
        f"{file}: record 6 (id d): field 'id': an earlier record has the same id",
        f"{file}: record 7: field 'id' is missing or of the wrong type",
        f"{file}: record 8 (id e): field 'correct_answer' is missing, blank or not text",
    )


def test_bad_files_are_named(tmp_path):
    with pytest.raises(BadInput, match=r"holds no testmini.parquet, testmini-\*.parquet"):
        read_benchmark("mathverse_prm", tmp_path, False, tmp_path)
    (tmp_path / "testmini.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(BadInput, match="testmini.parquet: not valid parquet .ArrowInvalid"):
        read_benchmark("mathverse_prm", tmp_path, False, tmp_path)
    (tmp_path / "rows.json").write_text("[1]")
    with pytest.raises(BadInput, match="rows.json: record 1: expected an object, found int"):
        read_benchmark("mathverse_prm", tmp_path / "rows.json", False, tmp_path)
    with pytest.raises(BadInput, match="--data PATH is needed, or --download"):
        read_benchmark("mathverse_prm", None, False, tmp_path)


@pytest.mark.slow  # datasets takes seconds to import
def test_the_hub_gives_the_same_rows(tmp_path):
    """`datasets` takes a folder for a data set: all but the download is as on the hub."""
    rows = [{"question": "?", "answer": "1", "image": picture(1), "all": [picture(2), picture(3)]}]
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", rows * 2)
    assert list(hub_table(str(tmp_path), None, "test").rows) == rows
    with pytest.raises(
        Fault, match=r"^Cierra0506/MM-K12 \(test\): cannot be read from the hub \(ConnectionError: .*\)$"
    ):
        list(hub_table("Cierra0506/MM-K12", None, "test").rows)


def test_no_id_leads_out_of_the_folder():
    assert file_stem("k12-17.b") == "k12-17.b"
    assert file_stem("../a") == "1fddb767f33598c8f9de26939a6e7787" and file_stem(".a") != ".a"
    assert len(file_stem("a" * 300)) == 32


def test_a_benchmark_as_a_seed_file_reads_back(tmp_path):
    write_parquet(tmp_path / "MathVerse/testmini.parquet", [VERSE, VERSE_ONLY])
    out = tmp_path / "out/mathverse.json"
    args = ["--benchmark", "mathverse_prm", "--data", tmp_path / "MathVerse", "--output_file", out]
    done = run_forked("eval/benchmarks.py", *args)
    assert done.returncode == 0 and done.stdout == f"{out}: 2 problems of mathverse_prm, 2 pictures\n"
    direct = read_benchmark("mathverse_prm", tmp_path / "MathVerse", False, tmp_path / "out")
    assert read_benchmark("seed", out, False, tmp_path) == direct
    assert [problem.key for problem in read_benchmark("seed", out, False, tmp_path)] == [p.key for p in direct]


def test_list_names_what_every_benchmark_needs():
    done = run_forked("eval/benchmarks.py", "--list")
    assert done.returncode == 0
    entries = done.stdout.split("\n\n")
    assert [entry.split(":")[0] for entry in entries] == list(BENCHMARKS)
    assert "problems: 3940\n    hub: AI4Math/MathVerse, configuration testmini, split testmini\n" in entries[4]
    assert "files: test.parquet or test-*.parquet" in entries[5] and '"options"' in entries[5]
    done = run_forked("eval/benchmarks.py", "--benchmark", "k12_prm")
    assert done.returncode == 2 and "--benchmark and --output_file are needed, or --list" in done.stderr


def test_rollouts_from_published_files_keep_what_is_known_of_the_problem(tmp_path):
    write_parquet(tmp_path / "MathVerse/testmini.parquet", [VERSE, VERSE_ONLY])
    out = tmp_path / "out/rollouts.json"
    args = ["--benchmark", "mathverse_prm", "--data", tmp_path / "MathVerse", "--output_file", out, "--num_rollouts", 1]
    with ChatServer(lambda request: ["<step>So D.</step><answer>D</answer>"]) as server:
        done = run_forked("eval/generate_rollouts.py", *args, "--policy_endpoint", server.url, "--model", "m")
    assert done.returncode == 0, done.stderr
    first, last = json.loads(out.read_text())
    assert first == {
        "id": "1",
        "question": VERSE["query_cot"],
        "image_path": str(tmp_path / "out/images_mathverse_prm/1_1.png"),
        "answer": "D",
        "solutions": ["<step>So D.</step><answer>D</answer>"],
        "solutions_splits": [["So D.", "D"]],
        "answers": ["D"],
        "labels": [1],
        "logprobs": [-1.5],
        "subject": "Plane Geometry",
        "source": "GeoQA+",
        "problem_index": "1",
        "problem_version": "Text Dominant",
    }
    assert last["problem_index"] == "1" and last["problem_version"] == "Vision Only"


def test_seeds_from_parquet_and_jsonl(tmp_path):
    rows = [
        {"id": 1, "question": "What is x?", "answer": "40", "image": picture(1), "grade": 9},
        {"id": 2, "question": "And y?", "answer": "2", "image": None, "grade": 8},
    ]
    write_parquet(tmp_path / "in/train-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "in/test-00000-of-00001.parquet", rows[:1])
    out = tmp_path / "out/seed.json"
    args = ["--output_file", out, "--image_dir", tmp_path / "pictures", "--input"]
    done = run_forked("data_pipeline/tools/prepare_seeds.py", *args, tmp_path / "in")
    assert done.returncode == 0 and done.stdout == f"{out}: 2 problems, 1 pictures, 0 rows skipped\n"
    first = {"id": "1", "question": "What is x?", "correct_answer": "40", "grade": 9}
    second = {"id": "2", "question": "And y?", "correct_answer": "2", "grade": 8, "image_path": None}
    assert json.loads(out.read_text()) == [first | {"image_path": "../pictures/1_1.png"}, second]

    row = {"name": "../p", "problem": "Compare.", "value": 3.5, "shown": ["pictures/1_1.png"] * 2, "extra": {"a": 1}}
    lines = tmp_path / "rows.jsonl"
    lines.write_text(json.dumps(row) + "\n" + json.dumps(row | {"value": None}) + "\n" + json.dumps({"name": "q"}))
    args += [lines, "--id_column", "name", "--question_column", "problem", "--answer_column", "value"]
    args += ["--image_column", "shown"]
    bad = [
        f"{lines}: record 2 (id ../p): field 'name': an earlier record has the same id",
        f"{lines}: record 3 (id q): field 'shown' is missing; it may be null",
    ]
    refused = run_forked("data_pipeline/tools/prepare_seeds.py", *args)
    assert refused.returncode == 2 and refused.stderr.splitlines() == [f"error: {line}" for line in bad]
    done = run_forked("data_pipeline/tools/prepare_seeds.py", *args, "--skip_invalid")
    assert done.returncode == 0 and done.stdout.splitlines()[:2] == [f"skipped: {line}" for line in bad]
    paths = ["../pictures/1_1.png"] * 2
    assert json.loads(out.read_text()) == [
        {"id": "../p", "question": "Compare.", "correct_answer": 3.5, "image_path": paths}
    ]


def test_chats_of_both_versions_of_mm_eureka_become_seeds(tmp_path):
    write_jpegs(tmp_path, "pictures/k12/3.jpg", "pictures/4 b.jpg")
    first = [{"role": "system", "content": "Think first."}, {"role": "user", "content": "<image>\nWhat is x?"}]
    text_only = [{"role": "user", "content": "<image>\nWhat is 1 + 1?"}]
    parts = [{"type": "image", "image": "file:///data/4%20b.jpg"}, {"type": "text", "text": "And y?"}]
    rows = [
        {"id": "0", "conversations": first, "answer": "40", "image_urls": ["file:///home/a/k12/3.jpg"], "grade": 9},
        {"id": "1", "conversations": text_only, "answer": "2", "image_urls": ["file:///home/examples/blank.png"]},
        {"id": "2", "message": json.dumps([{"role": "user", "content": parts}]), "answer": 3},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out/seed.json"
    args = ["--input", tmp_path / "rows.jsonl", "--output_file", out, "--image_dir", tmp_path / "out/images"]
    done = run_forked("data_pipeline/tools/prepare_seeds.py", *args, "--image_root", tmp_path / "pictures")
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == [
        {"id": "0", "question": "What is x?", "correct_answer": "40", "grade": 9}
        | {"image_path": "../pictures/k12/3.jpg"},
        {"id": "1", "question": "What is 1 + 1?", "correct_answer": "2", "image_path": None},
        {"id": "2", "question": "And y?", "correct_answer": 3, "image_path": "../pictures/4 b.jpg"},
    ]


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ({"message": "[{"}, "field 'message': is not JSON"),
        ({"message": "{}"}, "field 'message': is not a list of turns"),
        ({"conversations": []}, "field 'conversations': has 0 turns of the user, not one"),
        ({"conversations": [{"role": "user", "content": [{"type": "audio"}]}]}, "a part is neither text nor a picture"),
        ({"conversations": [{"role": "user", "content": "a <image>"}], "image_urls": ["file:///x/3.jpg"]}, "3.jpg"),
    ],
)
def test_a_chat_that_cannot_be_read_is_named(tmp_path, chat, said):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "7", "answer": "1", **chat}) + "\n")
    args = ["--input", tmp_path / "rows.jsonl", "--output_file", tmp_path / "o.json", "--image_dir", tmp_path]
    done = run_forked("data_pipeline/tools/prepare_seeds.py", *args)
    assert done.returncode == 2 and said in done.stderr and "id 7" in done.stderr, done.stderr


# ---------------------------------------------------------------- the layouts of GitHub repositories


def write_jpegs(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(1, "JPEG")["bytes"])


def test_math_v_as_on_github_has_its_pictures_beside_the_folder_of_its_rows(tmp_path):
    write_jpegs(tmp_path, "images/3.jpg", "images/4.jpg")
    rows = [{name: value for name, value in row.items() if name != "decoded_image"} for row in (VISION, VISION_CHOICES)]
    rows[1]["image"] = "images/4.jpg"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out/seed.json"
    args = ["--benchmark", "mathvision_prm", "--data", tmp_path, "--output_file", out]
    done = run_forked("eval/benchmarks.py", *args)
    assert done.returncode == 2 and f"{tmp_path}/data/images/3.jpg does not exist" in done.stderr
    done = run_forked("eval/benchmarks.py", *args, "--image_root", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [record["image_path"] for record in json.loads(out.read_text())] == ["../images/3.jpg", "../images/4.jpg"]


def test_mathvista_as_on_github_is_asked_as_query_json_says(tmp_path):
    write_jpegs(tmp_path, "data/images/5.jpg", "data/images/7.jpg")
    rows = [VISTA, VISTA_FREE | {"image": "images/7.jpg"}]
    queries = {row["pid"]: row["query"] for row in rows}
    rows = [{name: row[name] for name in row if name not in ("decoded_image", "query")} for row in rows]
    (tmp_path / "data/testmini.json").write_text(json.dumps({row["pid"]: row for row in rows}))
    (tmp_path / "data/annot_testmini.json").write_text(json.dumps({"5": {"answer_latex": "1.2", "solution": None}}))
    with pytest.raises(BadInput, match=r"testmini.json: has no 'query': put query.json of the same folder beside it$"):
        read_benchmark("mathvista_prm", tmp_path, False, tmp_path)
    (tmp_path / "data/query.json").write_text(json.dumps(queries))
    got = records(read_benchmark("mathvista_prm", tmp_path, False, tmp_path))
    assert [(row["id"], row["question"], row["image_path"]) for row in got] == [
        ("5", queries["5"], "data/images/5.jpg"),
        ("7", queries["7"], "data/images/7.jpg"),
    ]
    with pytest.raises(BadInput) as error:
        read_benchmark("mathvista_prm", tmp_path / "data/annot_testmini.json", False, tmp_path)
    assert error.value.problems == (
        f"{tmp_path}/data/annot_testmini.json: holds no problems: they are in testmini.json, "
        "with query.json beside it, or in testmini-*.parquet",
    )


def test_olympiadbench_json_names_its_pictures_in_the_text(tmp_path):
    write_jpegs(tmp_path, *(f"images/img_{number}.jpg" for number in (3362, 7, 12)))
    row = {name: OLYMPIAD[name] for name in ("id", "subfield", "final_answer", "is_multiple_answer", "unit", "error")}
    rows = [
        {**row, "context": "In <img_7>,", "question": "we <img_3362> crawl\n<img_7> back.", "solution": ["<img_1>"]},
        {**row, "id": 2, "context": None, "question": "<img_12>"},
        {**row, "id": 3, "context": None, "question": "Nothing to see."},
    ]
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/OE_MM_maths_en_COMP.json"
    file.write_text(json.dumps(rows[:2]))
    for root in (tmp_path, tmp_path / "images"):
        got = records(read_benchmark("olympiadbench_prm", tmp_path, False, tmp_path, root))
        assert got[0]["question"] == "In [image 1],\n\nwe [image 2] crawl\n[image 1] back."
        assert got[0]["image_path"] == ["images/img_7.jpg", "images/img_3362.jpg"]
        assert (got[1]["question"], got[1]["image_path"]) == ("[image 1]", "images/img_12.jpg")
    file.write_text(json.dumps(rows))
    with pytest.raises(BadInput, match=r"record 3 \(id 3\): field 'image_1' is missing$"):
        read_benchmark("olympiadbench_prm", tmp_path, False, tmp_path, tmp_path)


MMK12 = {"question": "In the figure ...\nA. $60$\nB. $70$", "answer": "B", "subject": "math", "image": picture(1)}


def test_mmk12_as_a_benchmark_and_as_seeds(tmp_path):
    test, train = [{"id": id_, **MMK12} for id_ in ("3f1c", "9d02")], [{"id": "77aa", **MMK12, "answer": "$\\pi$"}]
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", test)
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", train)
    expected = {"id": "3f1c", "question": MMK12["question"], "correct_answer": "B", "subject": "math"}
    got = records(read_benchmark("mmk12", tmp_path, False, tmp_path))
    assert len(got) == 2 and got[0] == {**expected, "image_path": "images_mmk12/3f1c_1.png"}
    out = tmp_path / "seed.json"
    args = ["--input", tmp_path, "--output_file", out, "--image_dir", tmp_path / "pictures"]
    assert run_forked("data_pipeline/tools/prepare_seeds.py", *args).returncode == 0
    (seed,) = json.loads(out.read_text())
    assert seed == {**expected, "id": "77aa", "correct_answer": "$\\pi$", "image_path": "pictures/77aa_1.png"}
