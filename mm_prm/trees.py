"""The search's trees, one file each (stage 2 out)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm_prm.cli import BadInput
from mm_prm.fields import (
    as_text,
    check_text,
    field_of,
    image_list,
    image_value,
    is_count,
    is_list_of,
    is_probability,
    is_texts,
    pictures_of,
)
from mm_prm.files import as_object, missing, read_json, write_atomic
from mm_prm.pictures import picture_path

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
            if not all(child.partial_solution for child in node.children):
                raise ValueError("field 'partial_solution': a child lacks its steps")
            stack += [(mine, child["children"]) for mine, child in zip(node.children, children, strict=True)]
        return root

    @classmethod
    def _childless(cls, data: dict[str, Any]) -> Node:
        correct, correct_counts = _counted_rollouts(data, "correct")
        incorrect, incorrect_counts = _counted_rollouts(data, "incorrect")
        undecided, undecided_counts = _counted_rollouts({"undecided_rollouts": [], **data}, "undecided")
        judge_value = data.get("judge_value")
        if judge_value is not None:
            field_of(data, "judge_value", is_probability, "a number between 0 and 1, or null")
        return cls(
            partial_solution=field_of(data, "partial_solution", is_texts, "a list of texts", []),
            mc_value=float(field_of(data, "mc_value", is_probability, "a number between 0 and 1")),
            judge_value=None if judge_value is None else float(judge_value),
            visit_count=field_of(data, "visit_count", is_count, "a whole number"),
            num_rollouts=field_of(
                data, "num_rollouts", is_count, "a whole number", sum(correct_counts) + sum(incorrect_counts)
            ),
            num_correct=field_of(data, "num_correct", is_count, "a whole number", sum(correct_counts)),
            correct_rollouts=correct,
            correct_counts=correct_counts,
            incorrect_rollouts=incorrect,
            incorrect_counts=incorrect_counts,
            undecided=field_of(data, "undecided", is_count, "a whole number", sum(undecided_counts)),
            undecided_rollouts=undecided,
            undecided_counts=undecided_counts,
        )


def _counted_rollouts(data: dict[str, Any], kind: str) -> tuple[list[list[str]], list[int]]:
    """A node's `correct`, `incorrect` or `undecided` rollouts, and how often each came."""
    rollouts = field_of(data, f"{kind}_rollouts", lambda found: is_list_of(is_texts, found), "lists of texts")
    counts = field_of(
        data, f"{kind}_counts", lambda found: is_list_of(is_count, found), "whole numbers", [1] * len(rollouts)
    )
    if len(counts) != len(rollouts):
        raise ValueError(f"field '{kind}_counts': a node's counts do not match its rollouts")
    return rollouts, counts


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


def write_tree(path: str | Path, tree: Tree) -> None:
    """A tree on one line: Python's indenting encoder is 30 times slower, and a tree may hold megabytes."""
    write_atomic(path, json.dumps(tree.to_dict(), ensure_ascii=False) + "\n")


def read_tree(path: str | Path) -> Tree:
    """One tree file, its image paths absolute: relative ones belong to its folder. Raises BadInput that names it."""
    try:
        data = as_object(read_json(path))
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
