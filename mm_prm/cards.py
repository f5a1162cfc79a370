"""README.md of a data set or a checkpoint that is handed on: the hub's header, what is in it, how it came about."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

from huggingface_hub import CardData, DatasetCardData, ModelCardData

FILL_IN = "(to be filled in)"
BINS = 10
COLUMNS = """## Columns

- `prompt`, `images`: the problem; no picture where it is text only
- `completions`, `labels`: TRL's stepwise supervision; a label says whether the soft label is above the threshold,
  and steps without one stand at the beginning of the next completion that has one; behind the last label they are
  left out
- `steps`, `soft_labels`: the same before that; between 0 and 1, null where there is none, after one step or several;
  `label_counts`: the rollouts behind each of them, null where that is not known
- `id`, `answer`: of the problem; its solutions share them"""


def _card(header: CardData, *sections: str) -> str:
    return "\n\n".join([f"---\n{header.to_yaml()}\n---", *sections]) + "\n"


def _block(data: Any) -> str:
    return f"```json\n{json.dumps(data, ensure_ascii=False, indent=1)}\n```" if data else FILL_IN


def label_table(labels: list[float | None]) -> str:
    """How many labels lie in each tenth of 0..1, the last with 1, and how many steps have none."""
    counts = Counter(None if label is None else min(int(label * BINS), BINS - 1) for label in labels)
    names: list[tuple[int | None, str]] = [(b, f"{b / BINS} to {(b + 1) / BINS}") for b in range(BINS)]
    names.append((None, "none"))
    rows = [f"| {name} | {counts[key]} | {counts[key] / len(labels):.1%} |" for key, name in names]
    return "\n".join(["| soft label | labels | share |", "|---|---|---|", *rows])


def dataset_card(
    name: str, paths: list[dict[str, Any]], threshold: float, license: str, source: str | None, search: list[Any]
) -> str:
    """Of exported paths. search: the settings that their trees were searched with, as far as known."""
    labels = [label for path in paths for label in path["labels"]]
    known = [label for label in labels if label is not None]
    data = {"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}
    tags = ["trl", "stepwise-supervision", "process-reward-model", "mm-prm"]
    return _card(
        DatasetCardData(pretty_name=name, license=license, tags=tags, configs=[data]),
        f"# {name}\n\nSolutions with a label after their steps, for training process reward models.",
        f"Problems and pictures from: {source or FILL_IN}\n\nLicence, also in the header: {license}",
        COLUMNS,
        f"## Counts\n\n{len({path['id'] for path in paths})} problems, {len(paths)} solutions (rows), "
        f"{sum(bool(path.get('image_path')) for path in paths)} with pictures; {len(known)} labels, "
        f"{sum(label > threshold for label in known)} of them true (soft label above {threshold}).",
        label_table(labels),
        f"## How the labels were made\n\n{_block(search)}",
    )


def model_card(
    name: str,
    base_model: str | None,
    license: str,
    data: list[str],
    parameters: dict[str, Any],
    results: dict[str, Any],
) -> str:
    """Of a trained checkpoint. data: names of its data sets; parameters: what training was started with; results: for
    example train_results.json."""
    header = ModelCardData(
        library_name="transformers",
        base_model=None if os.path.exists(base_model or "") else base_model,  # the hub knows no local folder
        license=license,
        model_name=name,
        pipeline_tag="image-text-to-text",
        tags=["process-reward-model", "mm-prm"],
    )
    use = "python eval/prm/evaluate_prm.py --checkpoint CHECKPOINT --input_file rollouts.json --output_file scored.json"
    return _card(
        header,
        f"# {name}\n\nA multimodal process reward model: a step's score is P(Yes) against No at the `<prm>` behind it.",
        f"From {base_model or FILL_IN} with {', '.join(data) or FILL_IN}.\n\nLicence, also in the header: {license}",
        f"```sh\n{use}\n```",
        f"## Training\n\n{_block(parameters)}",
        f"## Results\n\n{_block(results)}",
    )
