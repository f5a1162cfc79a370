"""Every record on disk as a type, and the only code that reads and writes them.

A file is read whole and checked before anything is done with it; a file is written under a temporary name,
flushed to disk and renamed, so that a finished file is a fact.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from mm_prm.cli import BadInput, naming
from mm_prm.pictures import look, lost_pointers, picture_path, place_pictures

# ---------------------------------------------------------------- files


def read_text(path: str | Path) -> str:
    """A file's text; a UTF-8 byte order mark is accepted. Raises BadInput that names the file."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except IsADirectoryError:
        raise BadInput(f"{path}: is a folder, not a file") from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        raise BadInput(missing(path)) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8, so not JSON ({error})") from None
    except ValueError as error:  # a NUL or half of a surrogate pair, from another file's field
        raise BadInput(f"{str(path)!r}: no such file ({error})") from None


def missing(path: str | Path, what: str = "file") -> str:
    """What to say of a path where nothing is."""
    url = "; it is a URL, and nothing is fetched: download it first" if re.search(r"(^|/)\w+:/", str(path)) else ""
    return f"{str(path)[:300]}: no such {what}{url}"


def parse_json(text: str) -> Any:
    """The value. Raises ValueError that says in one line what is wrong and where."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from None
    except ValueError:  # an integer of more digits than Python converts
        most = sys.get_int_max_str_digits()
        number = re.search(rf"\d{{{most + 1},}}(?=\s*[],}}])", text)
        raise json.JSONDecodeError(
            f"a number has more than {most} digits", text, number.start() if number else 0
        ) from None


def read_json(path: str | Path) -> Any:
    """Read one JSON file. Raises BadInput that names the file and the line."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        if _is_json(text.strip().split("\n")[0]):
            raise BadInput(f"{path}: is JSONL, one value a line, where JSON, one value, is wanted: {error}") from None
        raise BadInput(f"{path}: {error}") from None


def _is_json(text: str) -> bool:
    try:
        return isinstance(parse_json(text), (dict, list))
    except ValueError:
        return False


def read_object(path: str | Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise BadInput(f"{path}: expected an object, found {type(data).__name__}")
    return data


def read_json_list(path: str | Path) -> list[Any]:
    data = read_json(path)
    if not isinstance(data, list):
        raise BadInput(f"{path}: expected a JSON list of records, found {type(data).__name__}")
    return data


def read_jsonl(path: str | Path) -> list[Any]:
    """Read one JSON value per line; blank lines are skipped. Raises BadInput that names the bad line."""
    text, rows = read_text(path), []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                if not rows and _is_json(text):
                    break
                raise BadInput(f"{path}: line {number}: {error}") from None
    if len(rows) == 1 and isinstance(rows[0], list) or not rows and text.strip():
        raise BadInput(f"{path}: is JSON, one value, where JSONL, one value a line, is wanted")
    return rows


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write to a temporary name in the same folder, fsync, rename: readers see the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, data: Any) -> None:
    """An object indented, a list with one record a line, so that both can be read and large lists are written fast."""
    if isinstance(data, list):
        text = "[" + ",".join("\n" + json.dumps(record, ensure_ascii=False) for record in data) + "\n]\n"
    else:
        text = json.dumps(data, ensure_ascii=False, indent=1) + "\n"
    write_atomic(path, text)


def write_tree(path: str | Path, tree: Tree) -> None:
    """A tree on one line: Python's indenting encoder is 30 times slower, and a tree may hold megabytes."""
    write_atomic(path, json.dumps(tree.to_dict(), ensure_ascii=False) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


# ---------------------------------------------------------------- seed problems (stage 1 and 2 in)


@dataclass(frozen=True)
class Problem:
    """A seed problem. question: as `place_pictures` spells it; images: absolute paths, in order, empty for a text-only
    problem; record: the row as read."""

    id: str
    question: str
    answer: str
    images: list[str]
    record: dict[str, Any] = field(compare=False)

    @property
    def key(self) -> str:
        """md5 of the seed record, the name of its tree file.

        Image paths count by file name alone, so the key is the same from the seed file and from a chunk of it.
        """
        names = [Path(image).name for image in self.images]
        content = json.dumps({**self.record, "image_path": names}, ensure_ascii=False, sort_keys=True)
        return hashlib.md5(content.encode("utf-8")).hexdigest()


# What others call our fields, in small letters alone.
_PICTURES = {"image", "images", "img", "imgs", "picture", "pictures", "figure", "figures", "video", "videos"}
_PICTURES |= {kind + what for kind in ("image", "images", "img") for what in ("path", "paths", "file", "files", "url")}
NEARLY = {
    "image_path": _PICTURES,
    "image": _PICTURES,
    "id": {"id", "pid", "qid", "questionid", "problemid", "index", "idx"},
    "question": {"question", "problem", "query", "prompt"},
    "correct_answer": {"correctanswer", "answer", "finalanswer", "groundtruth", "gt", "reference"},
}


def nearly(record: dict[str, Any], name: str) -> str | None:
    """The key of a record that lacks `name` under which it probably has it: `images`, `imagePath` or `image_1` for
    `image_path`."""
    for key, value in () if name in record else record.items():
        if re.sub("[^a-z]", "", key.lower()) in NEARLY.get(name, ()) and value not in (None, "", []):
            return key
    return None


def pictures_of(record: dict[str, Any], name: str = "image_path") -> Any:
    """A record's pictures, None without any. Raises ValueError where it has them under another key: it would silently
    go on without them."""
    if key := nearly(record, name):
        raise ValueError(f"field {key!r}: pictures are read from {name!r}")
    return record.get(name)


def image_list(image: Any) -> list[str]:
    """`image_path`/`image` of any record as a list: a string, a list of strings, or null/absent/'' for none."""
    if image is None or image == "":
        return []
    images = [image] if isinstance(image, str) else image
    if not isinstance(images, list) or not all(isinstance(entry, str) and entry for entry in images):
        raise ValueError("must be a path, a list of paths, or null")
    return images


def image_value(images: list[str]) -> str | list[str] | None:
    """The inverse of `image_list`: one path as a string, several as a list, none as null."""
    return images[0] if len(images) == 1 else (images or None)


def rebased(value: Any, images: list[str], folder: Path) -> str | list[str] | None:
    """`image_path` of a record that goes to a file in `folder`: relative paths lead from there to the same pictures.

    images: the absolute paths.
    """
    pairs = zip(image_list(value), images, strict=True)
    return image_value([path if os.path.isabs(path) else os.path.relpath(full, folder) for path, full in pairs])


def whole_images(value: Any, folder: Path, name: str = "image_path") -> list[str]:
    """Absolute paths of a record's images, decoded once; relative ones belong to `folder`. Raises ValueError that names
    the field."""
    try:
        images = [picture_path(image, folder) for image in image_list(value)]
        for image in images:
            check_image(image)
    except ValueError as error:
        raise ValueError(f"field {name!r}: {error}") from None
    return images


def check_image(path: str) -> None:
    """Decode an image, once, to know that it is whole. Raises ValueError that says what is wrong with it."""
    look(path)


def as_text(value: Any) -> Any:
    """An id or answer that is a number as text; anything else as it is."""
    return str(value) if is_number(value) else value


def _text_field(record: dict[str, Any], name: str) -> str:
    value = as_text(record.get(name))
    if not isinstance(value, str) or not value.strip():
        hint = f": is it {key!r}?" if (key := nearly(record, name)) else ""
        raise ValueError(f"field {name!r} is missing, blank or not text{hint}")
    return value


def parse_problem(record: Any, folder: Path) -> Problem:
    """One seed record; relative image paths belong to `folder`. Raises ValueError that names the field."""
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    id_, question, answer = (_text_field(record, name) for name in ("id", "question", "correct_answer"))
    images = whole_images(pictures_of(record), folder)
    return Problem(id_, placed_question(question, images), answer, images, record)


def placed_question(question: str, images: list[str]) -> str:
    """`place_pictures`, its ValueError naming the field."""
    try:
        return place_pictures(question, len(images))
    except ValueError as error:
        raise ValueError(f"field 'question': {error}") from None


def say_lost(path: str | Path, questions: Iterable[tuple[str, str, list[str]]]) -> None:
    """A line about questions (id, text, images) that point to pictures which are not there: many of MATH-V name the
    parts of one."""
    if ids := list(dict.fromkeys(id_ for id_, text, images in questions if lost_pointers(text, len(images)))):
        what = f"{len(ids)} questions point to more pictures than they have"
        print(f"warning: {path}: {what}: id {', '.join(ids[:5])}{', ...' * (len(ids) > 5)}", file=sys.stderr)


def check_text(record: Any) -> None:
    """Raises ValueError that names the field with half of a surrogate pair: JSON can carry it, UTF-8 cannot."""
    if _is_writable(record) or not isinstance(record, dict):
        return
    name = next(name for name, value in record.items() if not _is_writable([name, value]))
    raise ValueError(f"field {name!r}: holds half of a surrogate pair, which is no text")


def _is_writable(value: Any) -> bool:
    try:
        return bool(json.dumps(value, ensure_ascii=False, default=lambda other: None).encode("utf-8"))
    except UnicodeEncodeError:
        return False


def parse_records(path: str | Path, rows: Iterable[Any], parse: Callable[[Any], Any]) -> tuple[list[Any], list[str]]:
    """Parse every row; return the good ones and one line `file: record N (id ...): what is wrong` per bad one."""
    good, bad = [], []
    for number, row in enumerate(rows, 1):
        try:
            check_text(row)
            good.append(parse(row))
        except (ValueError, RecursionError) as error:
            what = "nested too deeply" if isinstance(error, RecursionError) else error
            bad.append(f"{path}: record {number}{_id_of(row)}: {what}")
    return good, bad


def _id_of(row: Any) -> str:
    id_ = row.get("id") if isinstance(row, dict) else None
    shown = " ".join(f"{'' if id_ is None else id_}".split())[:80].encode("utf-8", "backslashreplace").decode("utf-8")
    return f" (id {shown})" if shown else ""


def read_seed(path: str | Path, skip_invalid: bool = False) -> tuple[list[Problem], list[str]]:
    """Read a seed file or chunk. Returns the problems and a line per record left out.

    Raises BadInput naming every bad record, unless skip_invalid; always when nothing good is left.
    """
    rows, seen = read_json_list(path), set()

    def parse(row: Any) -> Problem:
        problem = parse_problem(row, Path(path).parent)
        if problem.id in seen:
            raise ValueError("field 'id': an earlier record has the same id")
        seen.add(problem.id)
        return problem

    problems, bad = parse_records(path, rows, parse)
    if bad and not skip_invalid:
        raise BadInput(*bad)
    if not problems:
        raise BadInput(*bad, f"{path}: holds no usable record")
    say_lost(path, ((problem.id, problem.question, problem.images) for problem in problems))
    return problems, bad


# ---------------------------------------------------------------- the tree (stage 2 out)


UNDECIDED = ("undecided", "undecided_rollouts", "undecided_counts")  # fields of a node that are written where not empty


@dataclass
class Node:
    """A state of the search: the solution so far, and what its rollouts showed (paper, section 3.2).

    partial_solution: the steps this node adds to its parent. A rollout is the list of steps that *follow* the
    state, the answer last. num_rollouts and num_correct are the counts behind mc_value; correct_counts and
    incorrect_counts say how often each distinct rollout came. judge_value: an MLLM's P(Yes) for partial_solution,
    None where it was not asked. undecided: rollouts without a verdict, in no other count, with undecided_rollouts and
    undecided_counts as for the others.
    """

    partial_solution: list[str]
    mc_value: float = 0.0
    judge_value: float | None = field(default=None, kw_only=True)
    visit_count: int = 0
    num_rollouts: int = 0
    num_correct: int = 0
    correct_rollouts: list[list[str]] = field(default_factory=list)
    correct_counts: list[int] = field(default_factory=list)
    incorrect_rollouts: list[list[str]] = field(default_factory=list)
    incorrect_counts: list[int] = field(default_factory=list)
    undecided: int = field(default=0, kw_only=True)
    undecided_rollouts: list[list[str]] = field(default_factory=list, kw_only=True)
    undecided_counts: list[int] = field(default_factory=list, kw_only=True)
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[tuple[tuple[str, ...], Node]]:
        """This node and every one below it, depth first, each with all steps that lead from here to it."""
        stack: list[tuple[tuple[str, ...], Node]] = [((), self)]  # no recursion: trees may be thousands of levels deep
        while stack:
            prefix, node = stack.pop()
            yield prefix, node
            stack += [((*prefix, *child.partial_solution), child) for child in reversed(node.children)]

    def drawn(self, verdict: bool | None) -> tuple[list[list[str]], list[int]]:
        """The distinct rollouts that are right (True), wrong (False) or undecided (None), and how often each came."""
        if verdict is None:
            return self.undecided_rollouts, self.undecided_counts
        right, wrong = (self.correct_rollouts, self.correct_counts), (self.incorrect_rollouts, self.incorrect_counts)
        return right if verdict else wrong

    def rollouts(self) -> Iterator[tuple[int, tuple[str, ...], int, bool | None]]:
        """Every distinct rollout of the tree: (length of the prefix it was drawn from, all steps, how often, correct?).

        The last is None for an undecided one.
        """
        for prefix, node in self.walk():
            for verdict in (True, False, None):
                for steps, count in zip(*node.drawn(verdict), strict=True):
                    yield len(prefix), (*prefix, *steps), count, verdict

    def is_judged(self) -> bool:
        """Whether every node below this one has a judge_value."""
        return all(node.judge_value is not None for _, node in self.walk() if node is not self)

    def to_dict(self) -> dict[str, Any]:
        """The fields; left out: an unknown judge_value, and what is undecided where nothing is.

        Lists are shared with the node, not copied.
        """
        root: dict[str, Any] = {}
        stack = [(self, root)]
        while stack:
            node, data = stack.pop()
            fields = vars(node).items()
            data |= {name: value for name, value in fields if value or not (value is None or name in UNDECIDED)}
            data["children"] = [{} for _ in node.children]
            stack += zip(node.children, data["children"], strict=True)
        return root

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Node:
        """Trees made elsewhere may lack the counts; every rollout then counts once.

        Raises KeyError that names a missing field, ValueError where counts and rollouts do not match.
        """
        root = cls._childless(data)
        stack = [(root, data["children"])]
        while stack:
            node, children = stack.pop()
            if not is_list_of(lambda child: isinstance(child, dict), children):
                raise ValueError("field 'children': expected a list of objects")
            node.children = [cls._childless(child) for child in children]
            stack += [(mine, child["children"]) for mine, child in zip(node.children, children, strict=True)]
        return root

    @classmethod
    def _childless(cls, data: dict[str, Any]) -> Node:
        correct, correct_counts = _counted_rollouts(data, "correct")
        incorrect, incorrect_counts = _counted_rollouts(data, "incorrect")
        undecided, undecided_counts = _counted_rollouts({"undecided_rollouts": [], **data}, "undecided")
        judge_value = data.get("judge_value")
        if judge_value is not None:
            _field(data, "judge_value", is_probability, "a number between 0 and 1, or null")
        return cls(
            partial_solution=_field(data, "partial_solution", is_texts, "a list of texts", []),
            mc_value=float(_field(data, "mc_value", is_probability, "a number between 0 and 1")),
            judge_value=None if judge_value is None else float(judge_value),
            visit_count=_field(data, "visit_count", is_count, "a whole number"),
            num_rollouts=_field(
                data, "num_rollouts", is_count, "a whole number", sum(correct_counts) + sum(incorrect_counts)
            ),
            num_correct=_field(data, "num_correct", is_count, "a whole number", sum(correct_counts)),
            correct_rollouts=correct,
            correct_counts=correct_counts,
            incorrect_rollouts=incorrect,
            incorrect_counts=incorrect_counts,
            undecided=_field(data, "undecided", is_count, "a whole number", sum(undecided_counts)),
            undecided_rollouts=undecided,
            undecided_counts=undecided_counts,
        )


def _field(data: dict[str, Any], name: str, is_right: Callable[[Any], bool], expected: str, *default: Any) -> Any:
    """Raises ValueError that names the field where it is wrong, KeyError where it is missing and has no default."""
    value = data.get(name, *default) if default else data[name]
    if not is_right(value):
        raise ValueError(f"field {name!r}: expected {expected}")
    return value


def _counted_rollouts(data: dict[str, Any], kind: str) -> tuple[list[list[str]], list[int]]:
    """A node's `correct`, `incorrect` or `undecided` rollouts, and how often each came."""
    rollouts = _field(data, f"{kind}_rollouts", lambda found: is_list_of(is_texts, found), "lists of texts")
    counts = _field(
        data, f"{kind}_counts", lambda found: is_list_of(is_count, found), "whole numbers", [1] * len(rollouts)
    )
    if len(counts) != len(rollouts):
        raise ValueError(f"field '{kind}_counts': a node's counts do not match its rollouts")
    return rollouts, counts


def is_list_of(is_right: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_probability(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def is_number(value: Any) -> bool:
    """A finite number that a float can hold."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # NaN is not; float() would fail where an integer is larger


@dataclass
class Tree:
    """A finished search over one problem. search: what was run (searches, rollouts, policy, judge, parameters)."""

    id: str
    question: str
    answer: str
    images: list[str]
    root: Node
    search: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        head = {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "image_path": image_value(self.images),
        }
        root = self.root.to_dict()
        del root["partial_solution"]
        return {**head, **root, "search": self.search}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Tree:
        images = image_list(pictures_of(data))
        id_, answer = as_text(data["id"]), as_text(data["answer"])
        return cls(id_, data["question"], answer, images, Node.from_dict(data), data.get("search") or {})


def read_tree(path: str | Path) -> Tree:
    """One tree file, its image paths absolute: relative ones belong to its folder. Raises BadInput that names it."""
    try:
        data = read_json(path)
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, found {type(data).__name__}")
        check_text(data)
        tree = Tree.from_dict(data)
        tree.images = [picture_path(image, Path(path).parent) for image in tree.images]
        for name, kind in (("id", str), ("question", str), ("answer", str), ("search", dict)):
            if not isinstance(getattr(tree, name), kind):
                raise ValueError(f"field {name!r} is missing or of the wrong type")
        return tree
    except KeyError as error:
        raise BadInput(f"{path}: not a tree (field {error} is missing)") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not a tree ({error})") from None


def each_tree(folder: str | Path) -> Iterator[tuple[Path, Tree]]:
    """Every `*.json` of a folder, in sorted order. Last, raises BadInput that names each one that is no tree."""
    if not Path(folder).is_dir():
        raise BadInput(missing(folder, "folder"))
    paths = sorted(Path(folder).glob("*.json"))
    bad: list[str] = []
    for path in paths:
        try:
            yield path, read_tree(path)
        except BadInput as error:
            bad += error.problems
    if bad:
        raise BadInput(*bad)
    if not paths:
        raise BadInput(f"{folder}: holds no tree (*.json)")


def read_trees(folder: str | Path) -> list[Tree]:
    """All trees of a folder. Raises BadInput as `each_tree`."""
    return [tree for _, tree in each_tree(folder)]


# ---------------------------------------------------------------- paths (stage 3 out), rollouts and scores (stage 6)


def _checked(record: Any, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """The record, its id as text, when it has the fields. Raises ValueError that names the field."""
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    record = {**record, "id": as_text(record.get("id"))}
    for name, kind in {"id": str, **types}.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"field {name!r} is missing or of the wrong type")
    image_list(pictures_of(record))
    return record


def parse_path(record: Any) -> dict[str, Any]:
    """{id, question, answer, image_path, steps: [[step, ...], ...], process, labels}: one label per entry of steps.

    A label is a number, or null for an entry without one; label_counts, where it is there, says of how many rollouts.
    """
    record = _checked(record, question=str, steps=list, process=str, labels=list)
    if len(record["steps"]) != len(record["labels"]):
        raise ValueError(f"field 'labels': {len(record['labels'])} labels for {len(record['steps'])} entries of steps")
    known = [label for label in record["labels"] if label is not None]
    if not known or not all(map(is_probability, known)):
        raise ValueError("field 'labels': must be numbers between 0 and 1 or null, at least one number")
    check_label_counts(record.get("label_counts"), record["labels"])
    return record


def check_label_counts(counts: Any, labels: list[Any]) -> None:
    """Raises ValueError unless there are none, or one for each label: rollouts behind it, at least 1; null for null."""
    if counts is None:
        return
    if not isinstance(counts, list) or len(counts) != len(labels):
        raise ValueError(f"field 'label_counts': expected a list of {len(labels)}, one for every label")
    for label, count in zip(labels, counts, strict=True):
        if count is not None if label is None else not (is_count(count) and count):
            expected = "null" if label is None else "a whole number above 0"
            raise ValueError(f"field 'label_counts': expected {expected} for the label {label}, found {count!r}")


CANDIDATE_FIELDS: dict[str, type | tuple[type, ...]] = {
    "solutions_splits": list,
    "labels": int,
    "undecided": int,
    "answers": (str, type(None)),
    "solutions": str,
    "logprobs": (int, float),
    "prm_scores": list,
}


def outcome_fields(verdicts: Iterable[bool | None]) -> dict[str, list[int]]:
    """`labels` of candidates and, where there are such, which of those labelled 0 are `undecided`."""
    verdicts = list(verdicts)
    undecided = {"undecided": [int(verdict is None) for verdict in verdicts]} if None in verdicts else {}
    return {"labels": [int(verdict is True) for verdict in verdicts], **undecided}


def parse_rollouts(record: Any) -> dict[str, Any]:
    """{id, question, image_path, answer, solutions_splits: [[step, ...]], answers, labels: [0|1], ...}.

    undecided: [0|1], where there are candidates without a verdict; their label is 0.
    """
    record = _checked(record, question=str, solutions_splits=list, labels=list)
    count = len(record["solutions_splits"])
    if count == 0:
        raise ValueError("field 'solutions_splits': no candidate")
    for name, kind in CANDIDATE_FIELDS.items():
        entries = record.get(name)
        if entries is None:
            continue
        if not isinstance(entries, list) or len(entries) != count:
            raise ValueError(f"field {name!r}: expected a list with one entry for each of the {count} candidates")
        if not all(
            isinstance(entry, kind) and (name != "logprobs" or is_number(entry) or entry == -inf) for entry in entries
        ):
            raise ValueError(f"field {name!r}: an entry is of the wrong type or not a number")
    if not all(isinstance(step, str) for steps in record["solutions_splits"] for step in steps):
        raise ValueError("field 'solutions_splits': every step must be text")
    for name in ("labels", "undecided"):
        if not all(value in (0, 1) for value in record.get(name) or ()):
            raise ValueError(f"field {name!r}: must be 0 or 1")
    if any(label and unknown for label, unknown in zip(record["labels"], record.get("undecided") or (), strict=False)):
        raise ValueError("field 'undecided': a candidate with label 1 is decided")
    return record


def parse_scored(record: Any) -> dict[str, Any]:
    """A rollouts record that has been scored: one number per step of every candidate."""
    record = parse_rollouts(record)
    if record.get("prm_scores") is None:
        raise ValueError("field 'prm_scores' is missing: run evaluate_prm.py first")
    for steps, scores in zip(record["solutions_splits"], record["prm_scores"], strict=True):
        if len(scores) != len(steps) or not all(map(is_probability, scores)):
            raise ValueError("field 'prm_scores': must be one number between 0 and 1 per step")
    return record


def dataset_entry(root: Path, annotation: Path, length: int) -> dict[str, Any]:
    """One entry of the dataset JSON that the fine-tune script reads."""
    return {
        "root": str(root.resolve()),
        "annotation": str(annotation.resolve()),
        "data_augment": False,
        "repeat_time": 1,
        "length": length,
    }


def read_checked(path: str | Path, parse: Callable[[Any], Any]) -> list[Any]:
    """A JSON list, every record turned by `parse`; raises BadInput naming each one that it refuses."""
    good, bad = parse_records(path, read_json_list(path), parse)
    if bad:
        raise BadInput(*bad)
    if not good:
        raise BadInput(f"{path}: holds no record")
    return good
