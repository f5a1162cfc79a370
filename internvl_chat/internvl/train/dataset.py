"""Dataset JSON -> checked rows -> token sequences with targets -> batches.

A PRM sample's targets are its soft labels, one per labelled <prm>; an SFT sample's are the reply's token ids.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mm_prm.cli import BadInput
from mm_prm.prm_format import MARKER, Encoded, Encoder
from mm_prm.prm_model import image_tiles, marker_index, pad_batch
from mm_prm.records import check_image, image_list, is_probability, parse_records, read_json, read_jsonl


@dataclass(frozen=True)
class Row:
    """One training row. images: absolute paths; target: the reply (sft) or one label or None per marker (prm)."""

    id: str
    images: list[str]
    text: str
    target: str | list[float | None]


def parse_row(record: Any, root: Path, objective: str) -> Row:
    """One line of the training JSONL. Raises ValueError that names the field."""
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, found {type(record).__name__}")
    try:
        images = [str(root / image) for image in image_list(record.get("image"))]
        for image in images:
            check_image(image)
    except ValueError as error:
        raise ValueError(f"field 'image': {error}") from None
    turns = record.get("conversations")
    try:
        (human, text), (gpt, target) = ((turn["from"], turn["value"]) for turn in turns)  # type: ignore[union-attr]
    except (TypeError, ValueError, KeyError):
        raise ValueError("field 'conversations': expected one human and one gpt turn") from None
    if (human, gpt) != ("human", "gpt") or not isinstance(text, str):
        raise ValueError("field 'conversations': expected one human and one gpt turn")
    if objective == "prm":
        _check_labels(text, target)
    else:
        if not isinstance(target, str) or not target:
            raise ValueError("field 'conversations': the gpt turn must be text")
        for _ in images:  # the placeholders of InternVL's SFT format; the encoder puts the images there itself
            text = text.removeprefix("<image>\n")
    return Row(str(record.get("id", "")), images, text, target)


def _check_labels(text: str, labels: Any) -> None:
    known = [label for label in labels if label is not None] if isinstance(labels, list) else []
    if not known or not all(map(is_probability, known)):
        raise ValueError(
            "field 'conversations': the gpt turn must be a list of numbers between 0 and 1 or null, at least one number"
        )
    if text.count(MARKER) != len(labels):
        raise ValueError(f"field 'conversations': {text.count(MARKER)} {MARKER} but {len(labels)} labels")


def read_rows(meta_path: str, objective: str, seed: int) -> list[Row]:
    """All rows of a dataset JSON, `repeat_time` applied (2: twice; 0.5: a seeded half).

    Relative paths belong to the dataset JSON's folder. Raises BadInput naming every bad row.
    """
    meta = read_json(meta_path)
    if not isinstance(meta, dict) or not meta:
        raise BadInput(f"{meta_path}: expected an object of datasets")
    folder, rows, bad = Path(meta_path).parent, [], []
    for name, entry in meta.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("annotation"), str):
            raise BadInput(f"{meta_path}: dataset {name!r}: field 'annotation' is missing")
        annotation, root = folder / entry["annotation"], folder / (entry.get("root") or "")
        records = read_jsonl(annotation)
        if entry.get("length") not in (None, len(records)):
            bad.append(f"{meta_path}: dataset {name!r}: length is {entry['length']}, but it has {len(records)} rows")
        good, wrong = parse_records(annotation, records, lambda record, root=root: parse_row(record, root, objective))
        whole, part = divmod(_repeat_time(meta_path, name, entry), 1)
        rows += good * int(whole) + random.Random(f"{seed} {name}").sample(good, round(part * len(good)))
        bad += wrong
    if bad:
        raise BadInput(*bad)
    if not rows:
        raise BadInput(f"{meta_path}: holds no row")
    return rows


def _repeat_time(meta_path: str, name: str, entry: dict[str, Any]) -> float:
    value = entry.get("repeat_time", 1)
    if not isinstance(value, (int, float)) or not value >= 0:
        raise BadInput(f"{meta_path}: dataset {name!r}: field 'repeat_time' must be a number of at least 0")
    return value


@dataclass
class Sample:
    """One sequence with its pictures. pixel_values: [tiles, 3, height, width] or None; targets: [positions]."""

    sequence: Encoded
    pixel_values: Tensor | None
    targets: list[float] | list[int]


class RowDataset(Dataset[Sample]):
    """Encodes rows when they are asked for. `max_length` in tokens: labels beyond it are dropped with their text."""

    def __init__(self, rows: list[Row], processor: Any, objective: str, max_length: int):
        self.rows, self.processor, self.objective, self.max_length = rows, processor, objective, max_length
        self.encoder = Encoder(processor.tokenizer)
        self.dropped = 0  # labels beyond max_length so far

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row = self.rows[index]
        pixel_values, image_tokens = image_tiles(self.processor, row.images)
        if self.objective == "sft":
            sequence = self.encoder.sft(row.text, str(row.target), image_tokens)
            targets: list[Any] = sequence.input_ids[sequence.target_start : self.max_length]
        else:
            sequence = self.encoder.prm(row.text, image_tokens)
            # As many labels as markers, null or not; only a marker with a label is trained.
            marked = zip(sequence.marker_positions, row.target, strict=True)
            labelled = [(at, label) for at, label in marked if label is not None]
            kept = [(at, label) for at, label in labelled if at < self.max_length]
            sequence.marker_positions, targets = [at for at, _ in kept], [label for _, label in kept]
            self.dropped += len(labelled) - len(kept)
        sequence.input_ids = sequence.input_ids[: self.max_length]
        return Sample(sequence, pixel_values, targets)


class Collator:
    """Samples -> one padded batch: model inputs, the positions whose logits are wanted, and their targets."""

    def __init__(self, pad_id: int, objective: str):
        self.pad_id, self.objective = pad_id, objective

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        sequences = [sample.sequence for sample in samples]
        if self.objective == "sft":
            # The logits that predict a token stand one position before it.
            for sequence in sequences:
                sequence.marker_positions = list(range(sequence.target_start - 1, len(sequence.input_ids) - 1))
        pixels = [sample.pixel_values for sample in samples if sample.pixel_values is not None]
        return {
            **pad_batch(sequences, self.pad_id),
            **marker_index(sequences),
            **({"pixel_values": torch.cat(pixels)} if pixels else {}),
            "targets": torch.tensor([target for sample in samples for target in sample.targets]),
        }
