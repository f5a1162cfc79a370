"""Reading, checking and writing the files between stages."""

import json
import os
from argparse import Namespace

import pytest
from PIL import Image

from mm_prm import cli, fields, files, pictures, records, trees
from mm_prm.cli import BadInput
from mm_prm.dataset_files import write_dataset
from mm_prm.journal import Journal
from mm_prm.pictures import picture_path


def test_a_good_seed_file_is_read_with_its_pictures(seed_file):
    problems, skipped = records.read_seed(seed_file)
    assert skipped == []
    assert [(p.id, p.answer, [os.path.basename(i) for i in p.images]) for p in problems] == [
        ("a", "75", ["p0.png"]),
        ("2", "3.5", ["p0.png", "p1.png"]),
        ("c", "2", []),
    ]
    assert problems[0].record["subject"] == "geometry"
    assert all(os.path.isabs(image) for problem in problems for image in problem.images)


def test_a_byte_order_mark_is_accepted(seed_file):
    seed_file.write_bytes(b"\xef\xbb\xbf" + seed_file.read_bytes())
    assert len(records.read_seed(seed_file)[0]) == 3


def write_bad_seed(seed_file):
    (seed_file.parent / "broken.png").write_bytes(b"not a picture")
    good = json.loads(seed_file.read_text())[0]
    bad = [
        {**good, "id": "no-answer", "correct_answer": "  "},
        {**good, "id": "gone", "image_path": "gone.png"},
        {**good, "id": "broken", "image_path": "broken.png"},
        good,
        "not a record",
        {**good, "id": "list", "image_path": [1]},
    ]
    seed_file.write_text(json.dumps([good, *bad]))


def test_every_bad_record_is_named_at_once(seed_file):
    write_bad_seed(seed_file)
    with pytest.raises(BadInput) as error:
        records.read_seed(seed_file)
    lines = error.value.problems
    assert len(lines) == 6
    for line, *words in zip(
        lines,
        [
            "record 2 (id no-answer)",
            "record 3 (id gone)",
            "record 4 (id broken)",
            "record 5 (id a)",
            "record 6",
            "7 (id",
        ],
        ["correct_answer", "does not exist", "cannot be opened", "same id", "expected an object", "image_path"],
        strict=True,
    ):
        assert all(word in line for word in words), line


def test_skip_invalid_keeps_the_good_ones_and_lists_the_rest(seed_file):
    write_bad_seed(seed_file)
    problems, skipped = records.read_seed(seed_file, skip_invalid=True)
    assert [problem.id for problem in problems] == ["a"]
    assert len(skipped) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", "not valid JSON"),
        ('{"a": 1}', "expected a JSON list"),
        ("[]", "no usable record"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_a_file_that_is_no_seed_list_is_refused(seed_file, content, message):
    seed_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=message):
        records.read_seed(seed_file)


def test_a_picture_over_the_pixel_limit_is_refused_unread(seed_file, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_IMAGE_PIXELS", 599)
    with pytest.raises(BadInput, match="600 pixels, over the limit 599"):
        records.read_seed(seed_file)


def test_an_image_bomb_is_refused(seed_file, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadInput, match="pixel limit"):
        records.read_seed(seed_file)


def test_the_key_does_not_depend_on_where_the_file_lies(seed_file, tmp_path):
    keys = [problem.key for problem in records.read_seed(seed_file)[0]]
    moved = json.loads(seed_file.read_text())
    moved[0]["image_path"] = "../p0.png"
    (tmp_path / "chunks").mkdir()
    (tmp_path / "chunks" / "part.json").write_text(json.dumps(moved[:1]))
    assert records.read_seed(tmp_path / "chunks" / "part.json")[0][0].key == keys[0]
    assert len(set(keys)) == 3 and all(len(key) == 32 for key in keys)


@pytest.mark.parametrize("key", ["image", "images", "imagePath", "Image_Paths", "image_1", "img_path", "picture"])
def test_a_key_that_is_nearly_ours_is_refused_with_the_right_name(seed_file, key):
    row = {"id": "a", "question": "q", "correct_answer": "1", key: "p0.png"}
    seed_file.write_text(json.dumps([row]))
    with pytest.raises(BadInput, match=f"id a.: field '{key}': pictures are read from 'image_path'"):
        records.read_seed(seed_file)
    seed_file.write_text(json.dumps([row | {"image_path": None}]))  # said to have none
    assert records.read_seed(seed_file)[0][0].images == []
    for parse, rest in (
        (records.parse_path, {"steps": [["s"]], "process": "s<prm>", "labels": [1]}),
        (records.parse_rollouts, {"solutions_splits": [["s"]], "labels": [1]}),
    ):
        with pytest.raises(ValueError, match=f"field '{key}': pictures are read from 'image_path'"):
            parse(row | rest)


def test_a_field_under_another_name_is_pointed_at(seed_file):
    seed_file.write_text(
        json.dumps([{"id": "a", "problem": "q", "answer": "1"}, {"id": "b", "question": "q", "gt": 1}])
    )
    with pytest.raises(BadInput) as error:
        records.read_seed(seed_file)
    assert [line[line.index("field '") :] for line in error.value.problems[:2]] == [
        "field 'question' is missing, blank or not text: is it 'problem'?",
        "field 'correct_answer' is missing, blank or not text: is it 'gt'?",
    ]


def test_ids_may_be_numbers_in_every_file(tmp_path):
    node = {"mc_value": 0, "visit_count": 0, "correct_rollouts": [], "incorrect_rollouts": [], "children": []}
    tree = trees.Tree.from_dict({"id": 7, "question": "q", "answer": 75, "image_path": None, **node})
    assert (tree.id, tree.answer) == ("7", "75")
    path = {"id": 7, "question": "q", "steps": [["s"]], "process": "s<prm>", "labels": [1]}
    assert records.parse_path(path)["id"] == "7"
    rollouts = {"id": 7, "question": "q", "solutions_splits": [["s"]], "labels": [1], "prm_scores": [[0.5]]}
    assert records.parse_scored(rollouts)["id"] == "7"


def test_relative_pictures_of_a_tree_belong_to_its_folder(tmp_path):
    tree = trees.Tree("a", "q", "75", ["p.png", "/p.png"], trees.Node([]))
    trees.write_tree(tmp_path / "t" / "a.json", tree)
    assert trees.read_trees(tmp_path / "t")[0].images == [str(tmp_path / "t" / "p.png"), "/p.png"]


def test_above_a_folder_that_is_a_link_is_where_the_link_leads(tmp_path):
    (tmp_path / "deep" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "data")
    assert picture_path("../p.png", tmp_path / "link") == str(tmp_path / "deep" / "p.png")
    assert picture_path("p.png", tmp_path / "link") == str(tmp_path / "link" / "p.png")
    assert fields.rebased("p.png", [str(tmp_path / "p.png")], tmp_path / "link") == "../../p.png"


def test_a_dataset_joins_the_others_of_its_file(tmp_path, capsys):
    meta, rows = tmp_path / "m" / "meta.json", tmp_path / "rows.jsonl"

    def write(name):
        write_dataset(Namespace(output_file=rows, meta_file=meta, name=name, image_root=tmp_path), [{"id": "a"}])
        return json.loads(meta.read_text())

    other = {"annotation": "x.jsonl", "root": "."}
    files.write_json(meta, {"other": other, "example": {"annotation": "../rows.jsonl"}, "mine": {"repeat_time": 3}})
    found = write("mine")
    assert list(found) == ["other", "mine"] and found["other"] == other
    assert (found["mine"]["repeat_time"], found["mine"]["length"]) == (3, 1)
    assert list(write("renamed")) == ["other", "renamed"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output_file", "."], "is a folder"),
        (["--input_file", "a.json", "--output_file", "../{}/a.json"], "is --input_file, which would be lost"),
    ],
)
def test_what_would_be_lost_is_not_written(tmp_path, monkeypatch, capsys, flags, said):
    monkeypatch.chdir(tmp_path)
    parser = cli.Parser("")
    parser.add_argument("--input_file")
    parser.add_argument("--output_file")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([flag.format(tmp_path.name) for flag in flags])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "kept"), [(75, "75"), (None, None), ("x", "x")])
def test_the_answer_of_a_rollouts_record_is_text(answer, kept):
    record = {"id": 7, "question": "q", "solutions_splits": [["s"]], "labels": [1], "answer": answer}
    assert records.parse_rollouts(record)["answer"] == kept
    with pytest.raises(ValueError, match="field 'answer'"):
        records.parse_rollouts(record | {"answer": ["75"]})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    files.write_json(path, [1])

    def disk_full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, [2])
    assert json.loads(path.read_text()) == [1]
    assert os.listdir(tmp_path) == ["f.json"]


def test_a_tree_survives_the_round_trip():
    leaf = trees.Node(["s1", "s2"], mc_value=1.0, num_rollouts=2, num_correct=2)
    root = trees.Node([], 0.5, 3, 4, 2, [["s1", "s2"]], [2], [["x"], ["y"]], [1, 1], [leaf])
    tree = trees.Tree("a", "q", "75", ["/p.png"], root, {"seed": 0})
    data = json.loads(json.dumps(tree.to_dict()))
    assert list(data) == [
        *["id", "question", "answer", "image_path", "mc_value", "visit_count", "num_rollouts", "num_correct"],
        *["correct_rollouts", "correct_counts", "incorrect_rollouts", "incorrect_counts", "children", "search"],
    ]
    assert trees.Tree.from_dict(data) == tree
    root.undecided, root.undecided_rollouts, root.undecided_counts = 3, [["u"], ["v"]], [2, 1]
    data = json.loads(json.dumps(tree.to_dict()))
    assert list(data)[-5:-2] == ["undecided", "undecided_rollouts", "undecided_counts"]
    assert trees.Tree.from_dict(data) == tree
    for count in ("undecided", "undecided_counts"):
        del data[count]
    root.undecided, root.undecided_counts = 2, [1, 1]
    assert trees.Tree.from_dict(data) == tree


def test_a_folder_with_something_that_is_no_tree_names_it(tmp_path):
    (tmp_path / "a.json").write_text('{"id": "a"}')
    with pytest.raises(BadInput, match="a.json: not a tree"):
        trees.read_trees(tmp_path)


# ---------------------------------------------------------------- files of another kind, records of the wrong types


@pytest.mark.parametrize(
    ("content", "read", "message"),
    [
        ("[" * 100_000, files.read_json, "nested too deeply"),
        (
            '[1,\n {"a": ' + "9" * 5000 + "}]",
            files.read_json,
            r"a number has more than 4300 digits: line 2 column 8 ",
        ),
        ('{"a": 1}\n{"a": ' + "9" * 5000 + "}", files.read_jsonl, "line 2: a number has more than 4300 digits"),
        ('{"a": 1}\n{"b": 2}\n', files.read_json, "is JSONL, one value a line, where JSON, one value, is wanted"),
        ('[{"a": 1},\n{"b": 2}]', files.read_jsonl, "is JSON, one value, where JSONL, one value a line, is wanted"),
        ('[{"a": 1}]', files.read_jsonl, "is JSON, one value, where JSONL, one value a line, is wanted"),
        ('{"a": 1}\n{"b":\n', files.read_jsonl, r"line 2: not valid JSON \(Expecting value"),
        (b"PAR1\xff", files.read_json, "not UTF-8, so not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_it_is(tmp_path, content, read, message):
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match=message) as error:
        read(path)
    assert error.value.problems[0].startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.json", "gone.json: no such file$"),
        (".", "is a folder, not a file$"),
        ("https://host/seed.json", "no such file; it is a URL, and nothing is fetched: download it first$"),
        ("a\0b", r"'a\\x00b': no such file"),
        ("\ud800", r"no such file"),
    ],
)
def test_a_path_where_no_file_is(path, message):
    for read in (files.read_json, files.read_jsonl):
        with pytest.raises(BadInput, match=message):
            read(path)


def test_a_record_that_could_not_be_written_is_refused_when_it_is_read(tmp_path):
    good = {"id": "a", "question": "q", "correct_answer": "1"}
    bad = [{**good, "note": ["\ud83d"]}, {**good, "id": "b\n\ud83d"}, {**good, "correct_answer": 10**400}]
    path = tmp_path / "seed.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(BadInput) as error:
        records.read_seed(path)
    surrogate = "holds half of a surrogate pair, which is no text"
    assert error.value.problems == (
        f"{path}: record 1 (id a): field 'note': {surrogate}",
        f"{path}: record 2 (id b \\ud83d): field 'id': {surrogate}",
        f"{path}: record 3 (id a): field 'correct_answer' is missing, blank or not text",
    )


NODE = {"mc_value": 0.5, "visit_count": 1, "correct_rollouts": [["a"]], "incorrect_rollouts": [], "children": []}
TREE = {"id": "a", "question": "q", "answer": "1", **NODE}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mc_value": float("nan")}, "field 'mc_value': expected a number between 0 and 1"),
        ({"mc_value": 10**400}, "field 'mc_value': expected a number between 0 and 1"),
        ({"mc_value": "0.5"}, "field 'mc_value': expected a number between 0 and 1"),
        ({"visit_count": float("inf")}, "field 'visit_count': expected a whole number"),
        ({"num_correct": -1}, "field 'num_correct': expected a whole number"),
        ({"correct_rollouts": [5]}, "field 'correct_rollouts': expected lists of texts"),
        ({"correct_rollouts": None}, "field 'correct_rollouts': expected lists of texts"),
        ({"correct_counts": ["1"]}, "field 'correct_counts': expected whole numbers"),
        ({"correct_counts": [1, 1]}, "field 'correct_counts': a node's counts do not match its rollouts"),
        ({"children": {"a": 1}}, "field 'children': expected a list of objects"),
        ({"children": [{**NODE, "partial_solution": "a"}]}, "field 'partial_solution': expected a list of texts"),
        ({"children": [NODE]}, "field 'partial_solution': a child lacks its steps"),
        ({"children": [{**NODE, "judge_value": 2}]}, "field 'judge_value': expected a number between 0 and 1, or null"),
        ({"search": []}, None),
        ({"search": [1]}, "field 'search' is missing or of the wrong type"),
        ({"question": None}, "field 'question' is missing or of the wrong type"),
        ({"answer": "\ud83d"}, "field 'answer': holds half of a surrogate pair, which is no text"),
    ],
)
def test_a_tree_of_the_wrong_types_names_the_field(tmp_path, change, message):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(TREE | change))
    if message is None:
        assert trees.read_tree(path).search == {}
        return
    with pytest.raises(BadInput) as error:
        trees.read_tree(path)
    assert str(error.value) == f"{path}: not a tree ({message})"


def test_log_probabilities_are_numbers_that_a_float_holds():
    record = {"id": "a", "question": "q", "solutions_splits": [["a"]], "labels": [1]}
    assert all(records.parse_rollouts({**record, "logprobs": [value]}) for value in (-1, float("-inf")))
    for value in (float("nan"), float("inf"), -(10**400), True, "-1"):
        with pytest.raises(ValueError, match="field 'logprobs': an entry is of the wrong type or not a number"):
            records.parse_rollouts({**record, "logprobs": [value]})


# ---------------------------------------------------------------- how a script ends


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OSError(28, "No space left on device"), 1, "OSError: [Errno 28] No space left on device"),
        (MemoryError(), 1, "out of memory"),
        (RecursionError(), 2, "a record is nested too deeply"),
    ],
)
def test_a_fault_is_one_line(capsys, monkeypatch, error, code, line):
    monkeypatch.setattr("sys.setrecursionlimit", lambda limit: None)

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert (stop.value.code, capsys.readouterr().err) == (code, f"error: {line}\n")


def test_a_failed_write_names_the_file(tmp_path, monkeypatch):
    def disk_full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError) as error:
        files.write_json(tmp_path / "f.json", [2])
    assert str(error.value) == f"[Errno 28] No space left on device: {str(tmp_path / 'f.json')!r}"
    with Journal(tmp_path / "j.jsonl") as journal, pytest.raises(OSError) as error:
        journal.append({"a": 1})
    assert str(error.value) == f"[Errno 28] No space left on device: {str(tmp_path / 'j.jsonl')!r}"
    assert os.listdir(tmp_path) == []
