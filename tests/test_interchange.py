"""Paths to TRL's stepwise supervision and back, published step labels to paths, and the cards beside them."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import run_forked
from export import push, trl_row, with_images
from import_steps import FORMATS, path_record
from PIL import Image

from mm_prm.cards import label_table, model_card
from mm_prm.cli import Fault

EXPORT, IMPORT = (f"data_pipeline/tools/{name}.py" for name in ("export", "import_steps"))
FORMAT = "data_pipeline/prm_data_format.py"


def path_of(id_, steps, labels, image_path=None, **fields):
    process = "\n\n".join("\n".join(entry).replace("<prm>", "< prm>") + "<prm>" for entry in steps)
    record = {"id": id_, "question": f"What is {id_}?", "answer": "7", "image_path": image_path}
    return {**record, "steps": steps, "process": process, "labels": labels, **fields}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths")
    for index in range(2):
        Image.new("RGB", (20, 30), (index, 0, 0)).save(folder / f"p{index}.png")
    records = [
        path_of("a", [["1 + 1 = 2"], ["so", "2 + 5 = 7"]], [0.625, 1.0], str(folder / "p0.png")),
        path_of("a", [["1 + 1 = 3"]], [0.0], str(folder / "p0.png"), label_counts=[8]),
        path_of("b", [["一"], ["$x$"], ["<prm>"], ["7"]], [None, 0.1, 1 / 3, None], ["p0.png", "p1.png"]),
        path_of("c", [["a b"], ["c"]], [0.5, 0.0], answer=None),
    ]
    (folder / "paths.json").write_text(json.dumps(records))
    return folder / "paths.json", records


@pytest.fixture(scope="module")
def exported(paths):
    """Folder of an export, with threshold 0.2."""
    file, _ = paths
    trees = file.parent / "trees"
    trees.mkdir()
    for number in range(3):
        search = {"searches": number, "rollouts": 8, "policy": "p", "seed": number // 2}
        tree = {"id": "a", "question": "q", "answer": "7", "mc_value": 0.5, "visit_count": 0, "children": []}
        tree |= {"correct_rollouts": [], "incorrect_rollouts": [], "search": search}
        (trees / f"{number}.json").write_text(json.dumps(tree))
    args = ("--threshold", 0.2, "--tree_dir", trees, "--license", "mit", "--source", "desk")
    done = run_forked(EXPORT, "--input_file", file, "--output_dir", file.parent / "out", *args)
    assert (done.returncode, done.stderr) == (0, "")
    return file.parent / "out"


def as_rows(folder, name):
    """The training rows of paths, pictures as bytes."""
    args = ("--input_file", folder / f"{name}.json", "--output_file", folder / f"{name}.jsonl", "--image_root", folder)
    assert run_forked(FORMAT, *args).returncode == 0
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    for row in rows:
        images = row.get("image", [])
        row["image"] = [(folder / image).read_bytes() for image in ([images] if isinstance(images, str) else images)]
    return rows


def test_a_row_for_trl_has_booleans_and_leads_back_to_its_path(paths, tmp_path):
    file, records = paths
    for record in records:
        row = trl_row(with_images(record, file.parent), 0.2)
        (solution,) = FORMATS["trl"](row)
        back = path_record(row["id"], solution, tmp_path, tmp_path)
        assert {**back, "image_path": None} == {**record, "image_path": None}
    assert row == {
        "prompt": "What is c?",
        "completions": ["a b", "c"],
        "labels": [True, False],
        "images": [],
        "id": "c",
        "answer": None,
        "steps": [["a b"], ["c"]],
        "label_counts": None,
        "soft_labels": [0.5, 0.0],
    }


@pytest.mark.slow  # datasets takes seconds to import
def test_the_way_to_trl_and_back_loses_nothing(paths, exported):
    """Protects labels that are handed on: out and in again they are the same."""
    file, records = paths
    folder = file.parent
    done = run_forked(IMPORT, "--format", "trl", "--input", exported, "--output_file", folder / "back.json")
    assert done.stderr == ""
    assert done.stdout.splitlines()[1:] == ["rows: 4 used, 0 without a label, 0 skipped"]
    back = json.loads((folder / "back.json").read_text())
    assert [{**path, "image_path": None} for path in back] == [{**path, "image_path": None} for path in records]
    assert back[0]["image_path"] == back[1]["image_path"] == back[2]["image_path"][0]  # one file for one picture
    assert as_rows(folder, "back") == as_rows(folder, "paths")


@pytest.mark.slow
def test_an_export_is_loaded_as_trl_wants_it(exported, tmp_path):
    """Protects who downloads an export: `datasets` reads columns and pictures as TRL wants them."""
    import datasets

    rows = datasets.load_dataset(str(exported), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["prompt"][:] == ["What is a?", "What is a?", "What is b?", "What is c?"]
    assert rows["completions"][:] == [["1 + 1 = 2", "so\n2 + 5 = 7"], ["1 + 1 = 3"], ["一\n$x$", "<prm>"], ["a b", "c"]]
    assert rows["labels"][:] == [[True, True], [False], [False, True], [True, False]]
    assert rows["soft_labels"][2] == [None, 0.1, 1 / 3, None]
    assert [[image.size for image in images] for images in rows["images"]] == [
        [(20, 30)],
        [(20, 30)],
        [(20, 30)] * 2,
        [],
    ]


@pytest.mark.slow
def test_trl_tokenises_text_only_rows(exported):
    """Protects the claim that TRL trains on an export, where it is installed."""
    reason = "trl is not installed, or is one without its PRMTrainer (removed after 1.13)"
    prm = pytest.importorskip("trl.experimental.prm", reason=reason)
    import pyarrow.parquet
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "\n": 1, "a": 2, "b": 3, "c": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    row = pyarrow.parquet.read_table(exported / "data/train.parquet").to_pylist()[3]
    assert prm.PRMTrainer.tokenize_row(row, tokenizer, "\n", None, None, False, False) == {
        "input_ids": [0, 0, 0, 2, 3, 1, 4, 1],
        "labels": [-100, -100, -100, -100, -100, 1, -100, 0],
    }


@pytest.mark.slow
def test_the_card_says_what_is_in_the_data(exported):
    """Protects the card beside an export from saying what is not in it."""
    _, header, text = (exported / "README.md").read_text().split("---\n", 2)
    data = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}]
    assert yaml.safe_load(header)["license"] == "mit" and yaml.safe_load(header)["configs"] == data
    assert "Problems and pictures from: desk\n" in text
    assert "3 problems, 4 solutions (rows), 3 with pictures; 7 labels, 4 of them true (soft label above 0.2)." in text
    assert json.loads(text.split("```json\n")[1].split("```")[0]) == [{"policy": "p", "seed": s} for s in (0, 1)]


def test_labels_are_counted_by_tenths():
    assert label_table([0.0, 0.05, 0.3, 1.0, None]).splitlines() == [
        "| soft label | labels | share |",
        "|---|---|---|",
        "| 0.0 to 0.1 | 2 | 40.0% |",
        "| 0.1 to 0.2 | 0 | 0.0% |",
        "| 0.2 to 0.3 | 0 | 0.0% |",
        "| 0.3 to 0.4 | 1 | 20.0% |",
        *(f"| {n / 10} to {(n + 1) / 10} | 0 | 0.0% |" for n in range(4, 9)),
        "| 0.9 to 1.0 | 1 | 20.0% |",
        "| none | 1 | 20.0% |",
    ]


def test_a_model_card_names_base_data_and_results():
    _, header, text = model_card("prm", "OpenGVLab/x", "mit", ["k12"], {"lr": 4e-6}, {}).split("---\n", 2)
    assert yaml.safe_load(header)["base_model"] == "OpenGVLab/x"
    assert yaml.safe_load(header)["license"] == "mit"
    assert "From OpenGVLab/x with k12.\n" in text and '{\n "lr": 4e-06\n}' in text
    assert text.endswith("## Results\n\n(to be filled in)\n")


def test_an_upload_that_fails_is_said_in_one_line(tmp_path):
    with pytest.raises(Fault, match=r"^me/steps: not uploaded \(\w+: [^\n]*$"):
        push(tmp_path, "me/steps")


def test_bad_paths_are_named_before_anything_is_written(paths, tmp_path):
    file, good = tmp_path / "paths.json", paths[1][3]
    bad = [{**good, "steps": ["a", "b"]}, {**good, "image_path": "gone.png"}, {**good, "labels": [0.5]}]
    file.write_text(json.dumps([good, *bad]))
    done = run_forked(EXPORT, "--input_file", file, "--output_dir", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert [line.split(": ")[2:4] for line in done.stderr.splitlines()] == [
        ["record 2 (id c)", "field 'steps'"],
        ["record 3 (id c)", "field 'image_path'"],
        ["record 4 (id c)", "field 'labels'"],
    ]


# ---------------------------------------------------------------- published step labels


def labelled(format_, row):
    """Every solution of a row: [(steps joined, label), ...]."""
    solutions = FORMATS[format_](row)
    return [[("+".join(e), label) for e, label in zip(s.steps, s.labels, strict=True)] for s in solutions]


def completion(text, rating, flagged=None):
    return {"text": text, "rating": rating, "flagged": flagged}


def step_of(*completions, chosen=None, human=None):
    return {"completions": list(completions) or None, "chosen_completion": chosen, "human_completion": human}


def prm800k_row(*steps, finish_reason="found_error", **fields):
    question = {"problem": "1 + 1?", "ground_truth_answer": "2"}
    return {"question": question, "label": {"steps": list(steps), "finish_reason": finish_reason}, **fields}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [[" "], ["b"]]}, "field 'steps': expected lists of texts, none of them blank"),
        ({"steps": [[], ["b"]]}, "field 'steps': expected lists of texts, none of them blank"),
        ({"answer": 5}, "field 'answer': expected a text or null"),
        ({"question": "\ud800"}, "field 'question': holds half of a surrogate pair, which is no text"),
    ],
)
def test_what_could_not_be_read_back_is_not_exported(tmp_path, change, message):
    bad = tmp_path / "paths.json"
    bad.write_text(json.dumps([path_of("a", [["a"], ["b"]], [1, 0]) | change]))
    done = run_forked(EXPORT, "--input_file", bad, "--output_dir", tmp_path / "out")
    assert done.returncode == 2 and "record 1 (id a): " in done.stderr and message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("score", "right", "drawn"), [(0.9, 0, 16), (1.25, 20, 16), (0.5, None, 16)])
def test_a_score_that_its_counts_do_not_give_is_refused(score, right, drawn):
    step = {"step": "a", "score": score, "num_mc_correct": right, "num_mc_total": drawn}
    row = {"image": None, "question": "q", "answer": "1", "steps_with_score": [step]}
    with pytest.raises(ValueError, match=f"field 'score': {score}, but {right} of {drawn} continuations are right"):
        list(FORMATS["visualprm400k"](row))


def test_prm800k_gives_the_chosen_steps_and_every_rated_alternative():
    row = prm800k_row(
        step_of(completion("a", 1), completion("wrong", -1), completion("neutral", 0), chosen=0),
        step_of(completion("n", 0), chosen=0),
        step_of(completion("x", -1), human={"text": "written", "rating": None}),
        step_of(completion("z", -1), completion("unsure", -1, flagged=True), completion("ok", 1)),
    )
    start = [("a", 1.0), ("n", None), ("written", 1.0)]
    assert labelled("prm800k", row) == [
        [("wrong", 0.0)],
        [("a", 1.0), ("n", None), ("x", 0.0)],
        [*start, ("z", 0.0)],
        [*start, ("ok", 1.0)],
    ]
    assert labelled("prm800k", prm800k_row(step_of(completion("a", 1), chosen=0), step_of())) == [[("a", 1.0)]]


@pytest.mark.parametrize("fields", [{"is_quality_control_question": True}, {"finish_reason": "bad_problem"}])
def test_prm800k_leaves_out_repeated_and_broken_problems(fields):
    assert labelled("prm800k", prm800k_row(step_of(completion("a", 1), chosen=0), **fields)) == []


def test_a_visualprm_step_that_was_never_continued_has_no_label():
    scored = [
        {"step": "a", "score": 0.125, "num_mc_correct": 2, "num_mc_total": 16},
        {"step": "b", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 16},
        {"step": "c", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 0},
    ]
    row = {"image": "p0.png", "question": "Solve it. x?", "question_orig": "<image>\nx in <image2>?", "answer": 52}
    assert labelled("visualprm400k", {**row, "steps_with_score": scored}) == [[("a", 0.125), ("b", 0.0), ("c", None)]]
    (solution,) = FORMATS["visualprm400k"]({**row, "steps_with_score": scored})
    assert (solution.question, solution.images, solution.answer) == ("<image>\nx in <image2>?", "p0.png", 52)


def test_visualprm_pictures_are_found_where_the_archive_puts_them_and_blank_steps_left_out(tmp_path):
    """annotations/*.jsonl beside images/; rows of nlvr2 have two pictures."""
    names = ["Geometry3K/train/1/img.png", "mavis/2.png", "nlvr2/images/a-img0.png", "nlvr2/images/a-img1.png"]
    for index, name in enumerate(names):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), (index, 0, 0)).save(tmp_path / "images" / name)
    said = ["VisualPRM400K-v1.1-Raw/Geometry3K/train/1/img.png", "mavis/2.png"]
    said.append(["images/a-img0.png", "images/a-img1.png"])
    scored = [{"step": text, "score": 0.5, "num_mc_correct": 8, "num_mc_total": 16} for text in ("a", " \n", "b")]
    rows = [{"image": image, "question": "<image>x?", "answer": "1", "steps_with_score": scored} for image in said]
    rows[2]["question"] = "<image>\n<image>x?"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ("--format", "visualprm400k", "--input", tmp_path / "annotations/all.jsonl")
    for root in (tmp_path, tmp_path / "images"):
        out = tmp_path / "paths.json"
        done = run_forked(IMPORT, *args, "--output_file", out, "--image_root", root)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[1:] == ["3 blank steps left out", "rows: 3 used, 0 without a label, 0 skipped"]
        paths = json.loads(out.read_text())
        assert [path["image_path"] for path in paths] == [
            *(str(tmp_path / "images" / name) for name in names[:2]),
            [str(tmp_path / "images" / name) for name in names[2:]],
        ]
        assert all((path["steps"], path["labels"]) == ([["a"], ["b"]], [0.5, 0.5]) for path in paths)
        assert all(path["question"] == "x?" for path in paths)


def test_visualprocessbench_neutral_steps_have_no_label():
    response = {"steps": ["a", "b", "c"], "process_correctness": [1, 0, -1]}
    row = {"image": ["p0.png"], "question": "x?", "answer": "C", "response": response}
    assert labelled("visualprocessbench", row) == [[("a", 1.0), ("b", None), ("c", 0.0)]]


def test_trl_rows_made_elsewhere_have_booleans():
    assert labelled("trl", {"prompt": "x?", "completions": ["a", "b"], "labels": [True, False]}) == [
        [("a", 1.0), ("b", 0.0)]
    ]


def test_bad_rows_are_named_or_left_out(tmp_path):
    good = {"prompt": "x?", "completions": ["a"], "labels": [True]}
    bad = [
        {**good, "labels": [True, False]},
        {**good, "completions": [" "]},
        {**good, "images": ["gone.png"]},
        {**good, "labels": [2]},
        {**good, "prompt": 3},
        {**good, "images": [3]},
        {**good, "steps": "ab"},
        {**good, "soft_labels": 3},
        {**good, "completions": ["\ud83d"]},
        "text",
    ]
    file, out = tmp_path / "rows.jsonl", tmp_path / "paths.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in [good, *bad]))
    args = ("--format", "trl", "--input", file, "--output_file", out)
    done = run_forked(IMPORT, *args)
    assert done.returncode == 2 and not out.exists()
    fields = ["labels", "steps", "image", "labels", "prompt", "image", "steps", "soft_labels", "completions"]
    lines = done.stderr.splitlines()
    for line, number, name in zip(lines[:-1], range(2, 11), fields, strict=True):
        assert line.startswith(f"error: {file}: record {number}: field {name!r}")
    assert lines[-1] == f"error: {file}: record 11: expected an object, found str"
    done = run_forked(IMPORT, *args, "--skip_invalid")
    assert done.returncode == 0 and done.stdout.count("skipped: ") == 10
    (path,) = json.loads(out.read_text())
    assert (path["id"], path["process"], path["labels"]) == ("rows-1", "a<prm>", [1.0])


@pytest.mark.parametrize("rating", [2, "1", [1], None])
def test_a_rating_that_is_none_is_refused(rating):
    row = {"question": "x?", "response": {"steps": ["a"], "process_correctness": [rating]}}
    with pytest.raises(ValueError, match="field 'process_correctness': expected 1, 0 or -1"):
        labelled("visualprocessbench", row)


def test_imported_paths_become_training_rows(tmp_path):
    Image.new("RGB", (20, 30)).save(tmp_path / "p0.png")
    response = {"steps": ["say <prm>", "b"], "process_correctness": [0, -1]}
    neutral = {"steps": ["a"], "process_correctness": [0]}
    rows = [{"image": ["p0.png"], "question": "x?", "answer": "C", "response": r} for r in (response, neutral)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ("--input", tmp_path / "test.jsonl", "--output_file", tmp_path / "paths.json")
    done = run_forked(IMPORT, "--format", "visualprocessbench", *args)
    assert done.stdout.splitlines()[1] == "rows: 1 used, 1 without a label, 0 skipped"
    assert as_rows(tmp_path, "paths") == [
        {
            "id": "test-1",
            "image": [Path(tmp_path / "p0.png").read_bytes()],
            "conversations": [
                {"from": "human", "value": "Question: x?\nProcess: say < prm><prm>\n\nb<prm>"},
                {"from": "gpt", "value": [None, 0.0]},
            ],
        }
    ]
