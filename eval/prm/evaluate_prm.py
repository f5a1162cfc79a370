"""Score every step of every candidate with a PRM: rollouts in, the same records plus `prm_scores` out.

python eval/prm/evaluate_prm.py --checkpoint work_dirs/mm_prm --input_file rollouts.json --output_file scored.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from mm_prm import cli
from mm_prm.prm_format import STEP_SEPARATOR
from mm_prm.prm_model import Prm
from mm_prm.records import check_image, image_list, parse_rollouts, read_checked, write_json


def with_images(record: dict[str, Any], image_root: Path) -> tuple[dict[str, Any], list[str]]:
    """A record and its absolute image paths. Raises ValueError when an image is missing or broken."""
    images = [str(image_root / image) for image in image_list(record.get("image_path"))]
    try:
        for image in images:
            check_image(image)
    except ValueError as error:
        raise ValueError(f"field 'image_path': {error}") from None
    return record, images


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="PRM checkpoint folder")
    parser.add_argument("--input_file", type=Path, required=True, help="rollouts, a JSON list")
    parser.add_argument("--output_file", type=Path, required=True, help="scored rollouts")
    parser.add_argument(
        "--step_separator",
        default=STEP_SEPARATOR.encode("unicode_escape").decode(),
        help=r"text between <prm> and the next step; training uses \n\n, the released evaluation nothing",
    )
    parser.add_argument("--image_root", type=Path, help="folder of relative image paths; default: the input file's")
    args = parser.parse_args()
    root = args.image_root or args.input_file.parent
    records = read_checked(args.input_file, lambda record: with_images(parse_rollouts(record), root))
    prm = Prm.load(args.checkpoint, args.step_separator.replace("\\n", "\n"))
    for record, images in tqdm(records, desc="scoring", unit="problem", mininterval=1):
        record["prm_scores"] = prm.score(record["question"], images, record["solutions_splits"])
    write_json(args.output_file, [record for record, _ in records])
    print(f"{args.output_file}: {sum(len(record['prm_scores']) for record, _ in records)} candidates scored")


if __name__ == "__main__":
    cli.run(main)
