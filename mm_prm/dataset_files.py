"""A training set on disk: the rows (JSONL) and the dataset JSON that names them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mm_prm.fields import image_value
from mm_prm.files import read_object, write_json, write_jsonl
from mm_prm.records import dataset_entry


def dataset_row(id_: str, images: list[str], image_root: Path, human: str, gpt: Any) -> dict[str, Any]:
    """A row of either objective. Raises ValueError when an image does not exist."""
    image = image_value([relative_image(image, image_root) for image in images])
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": id_, **({"image": image} if image else {}), "conversations": turns}


def relative_image(image: str, image_root: Path) -> str:
    """Raises ValueError when there is no such image."""
    full = (image_root / image).resolve()
    if not os.path.isfile(full):  # Path.is_file() raises where a name is too long
        raise ValueError(f"field 'image_path': {full} does not exist")
    return os.path.relpath(full, image_root.resolve()) if full.is_relative_to(image_root.resolve()) else str(full)


def add_dataset_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """The flags of every script that writes a dataset, by default of this name."""
    parser.add_argument("--output_file", type=Path, required=True, help="training JSONL")
    parser.add_argument("--image_root", type=Path, default=Path("."), help="images are written relative to this folder")
    parser.add_argument("--meta_file", type=Path, help="dataset JSON; default: the output file with _meta.json")
    parser.add_argument("--name", default=name, help="name of the dataset in it")


def with_entry(datasets: dict[str, Any], name: str, entry: dict[str, Any], meta_file: Path) -> dict[str, Any]:
    """The dataset JSON with this dataset. Others stay, but for entries of the same rows, and so does how often it is
    repeated, which is set by hand."""
    rows = Path(entry["annotation"])
    others = {
        other: old
        for other, old in datasets.items()
        if not isinstance(old, dict) or (meta_file.parent / str(old.get("annotation"))).resolve() != rows
    }
    old = datasets.get(name)
    kept = {"repeat_time": old["repeat_time"]} if isinstance(old, dict) and "repeat_time" in old else {}
    return others | {name: entry | kept}


def write_dataset(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """The JSONL last: when it is there, the dataset JSON is."""
    meta_file = args.meta_file or args.output_file.with_name(f"{args.output_file.stem}_meta.json")
    entry = dataset_entry(args.image_root, args.output_file, len(rows))
    write_json(meta_file, with_entry(read_object(meta_file) if meta_file.exists() else {}, args.name, entry, meta_file))
    write_jsonl(args.output_file, rows)
    print(f"{args.output_file}: {len(rows)} rows; {meta_file}: dataset {args.name!r}")
