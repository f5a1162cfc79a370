"""Turn labelled paths into TRL's stepwise supervision, as parquet.

    python data_pipeline/tools/export.py --input_file paths.json \\
        --output_dir steps --tree_dir trees --license mit

The folder can be read by `datasets`; pictures lie in it, a card beside them.
--input_file is what traverse.py or import_steps.py wrote; import_steps.py
--format trl is the way back.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from mm_prm import cli
from mm_prm.cards import dataset_card
from mm_prm.fields import is_text, whole_images
from mm_prm.files import replacing, write_atomic
from mm_prm.records import parse_path, read_checked
from mm_prm.trees import each_tree

ROWS = 100  # of a row group: in memory at once, and each picture is stored once in it
DATA = "data/train.parquet"
COUNTS = ("searches", "rollouts", "unanswered", "undecided")  # of one tree, in its `search`


def with_images(record: Any, root: Path) -> dict[str, Any]:
    """A path whose `image_path` is a list of absolute paths. Raises ValueError when a picture is missing or broken."""
    path = parse_path(record)
    if not all(isinstance(entry, list) and entry and all(map(is_text, entry)) for entry in path["steps"]):
        raise ValueError("field 'steps': expected lists of texts, none of them blank")
    if not isinstance(path.get("answer"), (str, type(None))):
        raise ValueError("field 'answer': expected a text or null")
    return {**path, "image_path": whole_images(path.get("image_path"), root)}


@lru_cache(maxsize=16)  # the paths of a problem follow each other
def picture(path: str) -> dict[str, Any]:
    return {"bytes": Path(path).read_bytes(), "path": Path(path).name}


def trl_row(path: dict[str, Any], threshold: float) -> dict[str, Any]:
    """TRL wants a boolean for every completion: a step without a label goes to the next that has one.

    steps [[a], [b], [c], [d]] with labels [0.5, null, 0, null] -> completions [a, b\\nc], labels [True, False]
    """
    completions, labels, steps = [], [], []
    for entry, label in zip(path["steps"], path["labels"], strict=True):
        steps += entry
        if label is not None:
            completions.append("\n".join(steps))
            labels.append(label > threshold)
            steps = []
    images = [picture(image) for image in path["image_path"]]
    trl = {"prompt": path["question"], "completions": completions, "labels": labels, "images": images}
    ours = {name: path.get(name) for name in ("id", "answer", "steps", "label_counts")}
    return {**trl, **ours, "soft_labels": path["labels"]}


def schema() -> Any:
    """The columns as Arrow has them, with what tells `datasets` that images are images."""
    from datasets import Features, Image, List, Value  # seconds, for which a bad path need not wait

    text, texts = Value("string"), List(Value("string"))
    trl = {"prompt": text, "completions": texts, "labels": List(Value("bool")), "images": List(Image())}
    ours = {"id": text, "answer": text, "steps": List(texts), "label_counts": List(Value("int64"))}
    ours["soft_labels"] = List(Value("float64"))
    return Features({**trl, **ours}).arrow_schema


def write_parquet(file: Path, paths: list[dict[str, Any]], threshold: float) -> None:
    import pyarrow.parquet

    columns = schema()
    # The limit of 1 MB would end the dictionary, and store a problem's pictures once for each of its paths.
    limit = {"dictionary_pagesize_limit": 2**30}
    with replacing(file) as sink, pyarrow.parquet.ParquetWriter(sink, columns, **limit) as writer:
        for start in range(0, len(paths), ROWS):
            rows = [trl_row(path, threshold) for path in paths[start : start + ROWS]]
            writer.write_table(pyarrow.Table.from_pylist(rows, columns))


def searches(tree_dir: Path) -> list[dict[str, Any]]:
    """The different settings that the trees were searched with, in the order of the files."""
    found = [{k: value for k, value in tree.search.items() if k not in COUNTS} for _, tree in each_tree(tree_dir)]
    return [settings for number, settings in enumerate(found) if settings not in found[:number]]


def push(folder: Path, name: str) -> str:
    """Upload the data and the card, private where `name` is new; returns the address. Raises Fault."""
    import httpx
    from huggingface_hub import HfApi

    files, hub = [DATA, "README.md"], HfApi()
    try:
        hub.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        return hub.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset", allow_patterns=files)
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise cli.Fault(f"{name}: not uploaded ({cli.first_line(error)})") from None


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_file", type=Path, required=True, help="paths, a JSON list")
    parser.add_argument("--output_dir", type=Path, required=True, help=f"gets {DATA} and README.md")
    parser.add_argument("--threshold", type=cli.fraction, default=0.0, help="a step is true when above it")
    parser.add_argument("--license", default="unknown", help="identifier on the hub, for the card")
    parser.add_argument("--source", help="where problems and pictures are from, in words, for the card")
    parser.add_argument("--tree_dir", type=Path, help="the paths' trees: the card says how they were searched")
    parser.add_argument("--push_to_hub", metavar="NAME", help="upload to this data set on the hub as well")
    args = parser.parse_args()
    paths = read_checked(args.input_file, lambda record: with_images(record, args.input_file.parent))
    search = searches(args.tree_dir) if args.tree_dir else []
    write_parquet(args.output_dir / DATA, paths, args.threshold)
    name = args.output_dir.resolve().name
    card = dataset_card(name, paths, args.threshold, args.license, args.source, search)
    write_atomic(args.output_dir / "README.md", card)
    print(f"{args.output_dir / DATA}: {len(paths)} rows; what is to be filled in: {args.output_dir / 'README.md'}")
    if args.push_to_hub:
        print(push(args.output_dir, args.push_to_hub))


if __name__ == "__main__":
    cli.run(main)
