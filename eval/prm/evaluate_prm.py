"""Score every step of every candidate with a PRM: rollouts in, the same records plus `prm_scores` out.

python eval/prm/evaluate_prm.py --checkpoint work_dirs/prm --input_file rollouts.json --output_file scored.json
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from mm_prm import cli
from mm_prm.prm_format import STEP_SEPARATOR
from mm_prm.prm_model import Prm
from mm_prm.records import check_image, image_list, parse_rollouts, read_checked, write_json


def find_images(record: dict, image_root: Path) -> list[str]:
    """Absolute image paths of a record. Raises ValueError when one is missing or broken."""
    images = [str(image_root / image) for image in image_list(record.get("image_path"))]
    for image in images:
        check_image(image)
    return images


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
    records = read_checked(args.input_file, parse_rollouts)
    images, bad = [], []
    for record in records:
        try:
            images.append(find_images(record, args.image_root or args.input_file.parent))
        except ValueError as error:
            bad.append(f"{args.input_file}: record {record['id']}: field 'image_path': {error}")
    if bad:
        raise cli.BadInput(*bad)
    prm = Prm.load(args.checkpoint, args.step_separator.replace("\\n", "\n"))
    for record, paths in zip(tqdm(records, desc="scoring", unit="problem", mininterval=1), images, strict=True):
        record["prm_scores"] = prm.score(record["question"], paths, record["solutions_splits"])
    write_json(args.output_file, records)
    print(f"{args.output_file}: {sum(len(record['prm_scores']) for record in records)} candidates scored")


if __name__ == "__main__":
    cli.run(main)
