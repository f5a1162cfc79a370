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
from mm_prm.prm_format import MARKER, prm_text
from mm_prm.records import dataset_entry, image_list, image_value, parse_path, read_checked, write_json, write_jsonl


def training_row(path: dict[str, Any], image_root: Path) -> dict[str, Any]:
    """One line of the JSONL. Images below image_root become relative to it; a text-only row has no `image`."""
    text = prm_text(path["question"], path["process"])
    if text.count(MARKER) != len(path["labels"]):
        raise ValueError(f"field 'process': {text.count(MARKER)} {MARKER} for {len(path['labels'])} labels")
    images = image_value([relative_image(image, image_root) for image in image_list(path.get("image_path"))])
    row = {"id": path["id"], **({"image": images} if images else {})}
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": path["labels"]}]
    return {**row, "conversations": turns}


def relative_image(image: str, image_root: Path) -> str:
    """Raises ValueError when there is no such image."""
    full = (image_root / image).resolve()
    if not full.is_file():
        raise ValueError(f"field 'image_path': {full} does not exist")
    return os.path.relpath(full, image_root.resolve()) if full.is_relative_to(image_root.resolve()) else str(full)


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="paths, from traverse.py")
    parser.add_argument("--output_file", type=Path, required=True, help="training JSONL")
    parser.add_argument("--image_root", type=Path, default=Path("."), help="images are written relative to this folder")
    parser.add_argument("--meta_file", type=Path, help="dataset JSON; default: the output file with _meta.json")
    parser.add_argument("--name", default="mm_prm", help="name of the dataset in it")
    args = parser.parse_args()
    rows = read_checked(args.input_file, lambda record: training_row(parse_path(record), args.image_root))
    meta_file = args.meta_file or args.output_file.with_name(f"{args.output_file.stem}_meta.json")
    write_jsonl(args.output_file, rows)
    entry = dataset_entry(args.image_root, args.output_file, len(rows))
    write_json(meta_file, {args.name: entry})
    print(f"{args.output_file}: {len(rows)} rows; {meta_file}: dataset {args.name!r}")


if __name__ == "__main__":
    cli.run(main)
