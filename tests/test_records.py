"""Reading, checking and writing the files between stages."""

import json
import os

import pytest
from PIL import Image

from mm_prm import records
from mm_prm.cli import BadInput


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
    monkeypatch.setattr(records, "MAX_IMAGE_PIXELS", 599)
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


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    records.write_json(path, [1])

    def disk_full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        records.write_json(path, [2])
    assert json.loads(path.read_text()) == [1]
    assert os.listdir(tmp_path) == ["f.json"]


def test_a_tree_survives_the_round_trip():
    leaf = records.Node(["s1", "s2"], mc_value=1.0, num_rollouts=2, num_correct=2)
    root = records.Node([], 0.5, 3, 4, 2, [["s1", "s2"]], [2], [["x"], ["y"]], [1, 1], [leaf])
    tree = records.Tree("a", "q", "75", ["/p.png"], root, {"seed": 0})
    data = json.loads(json.dumps(tree.to_dict()))
    assert list(data) == [
        *["id", "question", "answer", "image_path", "mc_value", "visit_count", "num_rollouts", "num_correct"],
        *["correct_rollouts", "correct_counts", "incorrect_rollouts", "incorrect_counts", "children", "search"],
    ]
    assert records.Tree.from_dict(data) == tree
    root.undecided, root.undecided_rollouts, root.undecided_counts = 3, [["u"], ["v"]], [2, 1]
    data = json.loads(json.dumps(tree.to_dict()))
    assert list(data)[-5:-2] == ["undecided", "undecided_rollouts", "undecided_counts"]
    assert records.Tree.from_dict(data) == tree
    for count in ("undecided", "undecided_counts"):
        del data[count]
    root.undecided, root.undecided_counts = 2, [1, 1]
    assert records.Tree.from_dict(data) == tree


def test_a_folder_with_something_that_is_no_tree_names_it(tmp_path):
    (tmp_path / "a.json").write_text('{"id": "a"}')
    with pytest.raises(BadInput, match="a.json: not a tree"):
        records.read_trees(tmp_path)
