"""The PRM as a model: load a checkpoint, Yes/No logits at the markers, step scores, and the soft-label loss.

The only module of mm_prm that needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import InternVLForConditionalGeneration

from mm_prm.cli import BadInput
from mm_prm.prm_format import Encoded, Encoder, prm_text, process_text


def position_logits(
    self: InternVLForConditionalGeneration,
    input_ids: Tensor,
    attention_mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    pixel_values: Tensor | None = None,
    vocabulary: Tensor | None = None,
) -> Tensor:
    """Logits at positions (rows[i], columns[i]) only, over the tokens of `vocabulary` or over all of them.

    input_ids, attention_mask: [batch, tokens]; rows, columns: [positions];
    pixel_values: [tiles of all images, 3, height, width]. Returns float32 [positions, vocabulary].
    """
    hidden = self.model(
        input_ids=input_ids, attention_mask=attention_mask, pixel_values=pixel_values, use_cache=False
    ).last_hidden_state  # [batch, tokens, width]
    chosen = hidden[rows, columns]  # [positions, width]
    if vocabulary is None:
        return self.lm_head(chosen).float()
    return F.linear(chosen.float(), self.lm_head.weight[vocabulary].float())


def soft_label_loss(yes_no_logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of two-way cross-entropies against soft labels (paper, section 3.3).

    -[y log p + (1 - y) log(1 - p)] with p = softmax(Yes, No)[Yes].
    yes_no_logits: [labels, 2]; labels: [labels], in 0..1.
    """
    log_p = F.log_softmax(yes_no_logits.float(), dim=-1)
    labels = labels.float()
    return -(labels * log_p[:, 0] + (1 - labels) * log_p[:, 1]).sum()


def yes_no_ids(tokenizer: Any) -> Tensor:
    """Ids of the tokens `Yes` and `No`: [2]."""
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("Yes", "No")]
    if any(len(pieces) != 1 for pieces in ids):
        raise BadInput("the tokenizer needs several tokens for 'Yes' or 'No'; a PRM needs one token each")
    return torch.tensor([pieces[0] for pieces in ids])


def best_attention() -> str:
    """flash-attention 2 on a GPU that has it, else SDPA; eager on a CPU, where it is faster at desk lengths."""
    if not torch.cuda.is_available():
        return "eager"
    return "flash_attention_2" if transformers.utils.is_flash_attn_2_available() else "sdpa"


def load_model(checkpoint: str, dtype: torch.dtype) -> InternVLForConditionalGeneration:
    """A native InternVL checkpoint (policy or PRM) whose forward is `position_logits`.

    Raises BadInput when the folder is not one.
    """
    try:
        model, report = InternVLForConditionalGeneration.from_pretrained(
            checkpoint,
            dtype=dtype,
            attn_implementation=best_attention(),
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"{checkpoint}: not a native InternVL checkpoint ({str(error).splitlines()[0]})") from None
    # transformers would fill what is missing with random weights and go on.
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if wrong:
        raise BadInput(
            f"{checkpoint}: not a native InternVL checkpoint ({len(wrong)} weights missing or unknown: {wrong[0]})"
        )
    # Bound to the instance: transformers renames weights on loading and saving by the stock class, a subclass of it
    # would be saved under names that vLLM cannot load.
    model.forward = MethodType(position_logits, model)
    return model


def load_processor(checkpoint: str) -> Any:
    try:
        return transformers.AutoProcessor.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInput(f"{checkpoint}: no processor there ({str(error).splitlines()[0]})") from None


def image_tiles(processor: Any, paths: Sequence[str]) -> tuple[Tensor | None, list[int]]:
    """Decode and tile images as the checkpoint's processor says.

    Returns pixel_values [tiles, 3, height, width] (None without images) and each image's number of <IMG_CONTEXT>.
    """
    if not paths:
        return None, []
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    out = processor.image_processor(images=images, return_tensors="pt")
    tiles, counts = out["pixel_values"], [int(count) for count in out["num_patches"]]
    if not getattr(processor.image_processor, "use_thumbnail", True):
        # The native processor always adds the thumbnail, as the last tile of an image cut into several.
        kept = [part[:-1] if len(part) > 1 else part for part in tiles.split(counts)]
        tiles, counts = torch.cat(kept), [len(part) for part in kept]
    return tiles, [count * processor.image_seq_length for count in counts]


def pad_batch(sequences: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Right-pad sequences to the longest: input_ids and attention_mask, each [batch, tokens]."""
    longest = max(len(sequence.input_ids) for sequence in sequences)
    input_ids = torch.full((len(sequences), longest), pad_id)
    mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence.input_ids)] = torch.tensor(sequence.input_ids)
        mask[row, : len(sequence.input_ids)] = 1
    return {"input_ids": input_ids, "attention_mask": mask}


def marker_index(sequences: Sequence[Encoded]) -> dict[str, Tensor]:
    """Where the markers of a padded batch are: rows and columns, each [labels], sequence after sequence."""
    rows = [row for row, sequence in enumerate(sequences) for _ in sequence.marker_positions]
    columns = [column for sequence in sequences for column in sequence.marker_positions]
    return {"rows": torch.tensor(rows), "columns": torch.tensor(columns)}


@dataclass
class Prm:
    """A loaded PRM. Scores a problem's candidates; `separator` stands between a marker and the next step."""

    model: InternVLForConditionalGeneration
    processor: Any
    separator: str

    @classmethod
    def load(cls, checkpoint: str, separator: str) -> Prm:
        """On a GPU in bfloat16, on a CPU in float32."""
        gpu = torch.cuda.is_available()
        model = load_model(checkpoint, torch.bfloat16 if gpu else torch.float32).to("cuda" if gpu else "cpu").eval()
        prm = cls(model, load_processor(checkpoint), separator)
        prm.encoder  # noqa: B018 - fail at once if the tokenizer has no <prm>
        return prm

    @property
    def encoder(self) -> Encoder:
        return Encoder(self.processor.tokenizer)

    @torch.no_grad()
    def score(self, question: str, images: Sequence[str], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """P(Yes) after every step of every candidate: one list per candidate, one number in 0..1 per step.

        Candidates with the same steps are computed once; a candidate without steps gets an empty list.
        """
        distinct = sorted({tuple(steps) for steps in candidates if steps})
        if not distinct:
            return [[] for _ in candidates]
        pixel_values, image_tokens = image_tiles(self.processor, images)
        encoder = self.encoder
        sequences = [
            encoder.prm(prm_text(question, process_text(list(steps), self.separator)), image_tokens)
            for steps in distinct
        ]
        device = self.model.device
        batch = {**pad_batch(sequences, self.processor.tokenizer.pad_token_id or 0), **marker_index(sequences)}
        if pixel_values is not None:
            batch["pixel_values"] = pixel_values.repeat(len(distinct), 1, 1, 1)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        logits = self.model(**batch, vocabulary=yes_no_ids(self.processor.tokenizer).to(device))  # [labels, 2]
        scores = iter(logits.softmax(-1)[:, 0].tolist())
        by_steps = {steps: [next(scores) for _ in steps] for steps in distinct}
        return [by_steps[tuple(steps)] if steps else [] for steps in candidates]
