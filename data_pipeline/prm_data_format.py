"""Turn labelled paths into the PRM's training JSONL and its dataset JSON.

    python data_pipeline/prm_data_format.py --input_file paths.json \\
        --output_file prm.jsonl --image_root images \\
        --meta_file internvl_chat/shell/data/prm.json --name mm_prm
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mm_prm import cli
from mm_prm.dataset_files import add_dataset_flags, dataset_row, write_dataset
from mm_prm.fields import image_list
from mm_prm.pictures import picture_path
from mm_prm.prm_format import MARKER, check_placeholders, placeable, prm_text
from mm_prm.records import parse_path, read_checked


def training_row(path: dict[str, Any], image_root: Path, folder: Path) -> dict[str, Any]:
    """One line of the JSONL. Images below image_root become relative to it; a text-only row has no `image`.

    A relative path of the paths file belongs to image_root or, where it is not there, to that file's `folder`; the
    other way round where image_root is the working folder, which is what it is when nobody says it.
    """
    text = prm_text(path["question"], path["process"])
    if text.count(MARKER) != len(path["labels"]):
        raise ValueError(f"field 'process': {text.count(MARKER)} {MARKER} for {len(path['labels'])} labels")
    written = image_list(path.get("image_path"))
    first, second = (folder, image_root) if image_root == Path(".") else (image_root, folder)
    images = [picture_path(image, first if os.path.isfile(first / image) else second) for image in written]
    check_placeholders(placeable(text, "prm"), len(images))
    counts = path.get("label_counts")
    row = dataset_row(path["id"], images, image_root, text, path["labels"])
    return row | ({"label_counts": counts} if counts else {})


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="paths, from traverse.py")
    add_dataset_flags(parser, "mm_prm")
    args = parser.parse_args()
    root, folder = args.image_root, args.input_file.parent
    write_dataset(args, read_checked(args.input_file, lambda path: training_row(parse_path(path), root, folder)))


if __name__ == "__main__":
    cli.run(main)
