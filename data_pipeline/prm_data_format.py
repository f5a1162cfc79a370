"""Turn labelled paths into the PRM's training JSONL and its dataset JSON.

    python data_pipeline/prm_data_format.py --input_file paths.json \\
        --output_file prm.jsonl --image_root images \\
        --meta_file internvl_chat/shell/data/prm.json --name mm_prm
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mm_prm import cli
from mm_prm.pictures import picture_path
from mm_prm.prm_format import MARKER, check_placeholders, placeable, prm_text
from mm_prm.records import dataset_entry, image_list, image_value, parse_path, read_checked, write_json, write_jsonl


def training_row(path: dict[str, Any], image_root: Path, folder: Path) -> dict[str, Any]:
    """One line of the JSONL. Images below image_root become relative to it; a text-only row has no `image`.

    A relative path of the paths file belongs to image_root or, where it is not there, to that file's `folder`.
    """
    text = prm_text(path["question"], path["process"])
    if text.count(MARKER) != len(path["labels"]):
        raise ValueError(f"field 'process': {text.count(MARKER)} {MARKER} for {len(path['labels'])} labels")
    written = image_list(path.get("image_path"))
    images = [image if os.path.isfile(image_root / image) else picture_path(image, folder) for image in written]
    check_placeholders(placeable(text, "prm"), len(images))
    counts = path.get("label_counts")
    row = dataset_row(path["id"], images, image_root, text, path["labels"])
    return row | ({"label_counts": counts} if counts else {})


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


def write_dataset(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """The JSONL last: when it is there, the dataset JSON is."""
    meta_file = args.meta_file or args.output_file.with_name(f"{args.output_file.stem}_meta.json")
    write_json(meta_file, {args.name: dataset_entry(args.image_root, args.output_file, len(rows))})
    write_jsonl(args.output_file, rows)
    print(f"{args.output_file}: {len(rows)} rows; {meta_file}: dataset {args.name!r}")


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="paths, from traverse.py")
    add_dataset_flags(parser, "mm_prm")
    args = parser.parse_args()
    root, folder = args.image_root, args.input_file.parent
    write_dataset(args, read_checked(args.input_file, lambda path: training_row(parse_path(path), root, folder)))


if __name__ == "__main__":
    cli.run(main)
