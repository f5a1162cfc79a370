"""The PRM as a model: load a checkpoint, Yes/No logits at the markers, and the soft-label loss."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from types import MethodType
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, InternVLConfig, InternVLForConditionalGeneration

from mm_prm.cli import BadInput, refusing
from mm_prm.packing import Packed, Segment, segments
from mm_prm.pictures import look, open_picture

KEPT = "original"  # folder in a converted checkpoint with the original's small files, for the way back


class Spans:
    """Pieces of keys or values, read together. whole: [1, heads, tokens, width]; sizes: of the segments that make up
    the row and all spans, for a row with gradients: it is split once, as every slice's gradient would be as large as
    the row."""

    def __init__(self, whole: Tensor, sizes: Sequence[int] | None):
        self.whole = whole
        self.starts = [0, *accumulate(sizes)] if sizes else []
        self.parts = whole.split(list(sizes), dim=2) if sizes else ()

    def read(self, spans: Sequence[tuple[int, int]]) -> Tensor:
        """[1, heads, tokens of the spans, width]."""
        return torch.cat([part for start, stop in spans for part in self.between(start, stop)], dim=2)

    def between(self, start: int, stop: int) -> Sequence[Tensor]:
        if not self.parts:
            return [self.whole[:, :, start:stop]]
        return self.parts[bisect_left(self.starts, start) : bisect_left(self.starts, stop)]


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Sequence[Segment] = (),
    memory: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in a packed row (mm_prm/packing.py), piece by piece: no pair of tokens is computed to be masked.

    query: [1, heads, tokens, width]; key, value: [1, key heads, tokens, width]; memory: where earlier rows' keys and
    values are kept, the spans of `segments` are then places in it. Returns [1, tokens, heads, width].
    """
    sizes = [stop - start for start, stop, _ in segments]
    if memory is not None:
        key, value = memory.extend(module.layer_idx, key, value)
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotary embedding leaves float32
    keys, values = (Spans(whole, sizes if whole.requires_grad else None) for whole in (key, value))
    pieces = []
    for part, (start, stop, spans) in zip(query.split(sizes, dim=2), segments, strict=True):
        seen, root = keys.read(spans), spans == [(start, stop)]
        pieces.append(
            F.scaled_dot_product_attention(
                part,
                seen,
                values.read(spans),
                attn_mask=None if root else causal_lower_right(stop - start, seen.shape[2]),
                is_causal=root,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2), None


# transformers makes no mask for an attention it does not know: a packed row needs none.
AttentionInterface.register("segments", segment_attention)


def packed_mask(subtree_end: Tensor) -> BlockMask:
    """The same attention as a FlexAttention block mask. subtree_end: [tokens]."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < subtree_end[key])

    tokens = len(subtree_end)
    return create_block_mask(sees, None, None, tokens, tokens, device=subtree_end.device)


def with_pictures(
    self: InternVLForConditionalGeneration, embedded: Tensor, places: Tensor, pixel_values: Tensor
) -> Tensor:
    """The pictures' features in the places of their tokens. embedded: [1, tokens, width]; places: [image tokens]."""
    features = self.model.get_image_features(pixel_values=pixel_values).pooler_output.flatten(0, -2)
    if len(places) != len(features):
        raise ValueError(f"{len(features)} image features for {len(places)} image tokens")
    return embedded.index_copy(1, places, features[None].to(embedded.dtype))


def position_hidden(
    self: InternVLForConditionalGeneration,
    input_ids: Tensor,
    position_ids: Tensor,
    subtree_end: Tensor | None,
    columns: Tensor,
    pixel_values: Tensor | None = None,
    image_places: Tensor | None = None,
    layout: dict[str, Any] | None = None,
) -> Tensor:
    """The last layer's states at some positions of a packed row.

    input_ids, position_ids: [1, tokens]; subtree_end: [tokens]; columns: [positions], may repeat; layout: in the place
    of subtree_end, `segment_attention`'s own arguments: a row that goes on from others;
    pixel_values: [tiles of all images, 3, height, width]; image_places: [image tokens], where their features belong, by
    default wherever the image token is: a policy may have drawn it as well, and then it is a token like any other, to
    the server too. Returns [positions, width].
    """
    if layout is None:
        assert subtree_end is not None
        flex = self.config.text_config._attn_implementation == "flex_attention"
        layout = {"attention_mask": packed_mask(subtree_end)} if flex else {"segments": segments(subtree_end.tolist())}
    embedded = self.get_input_embeddings()(input_ids)
    if pixel_values is not None:
        if image_places is None:
            image_places = (input_ids[0] == self.config.image_token_id).nonzero()[:, 0]
        embedded = with_pictures(self, embedded, image_places, pixel_values)
    elif torch.distributed.is_initialized():
        # DeepSpeed adds up gradients, and ZeRO-3 gathers weights, in the order in which they come up: every process
        # must use the same parts in the same order, so a row without pictures looks at a blank one in their place.
        vision = self.config.vision_config
        blank = torch.zeros(1, vision.num_channels, *vision.image_size, device=embedded.device)
        features = self.model.get_image_features(pixel_values=blank).pooler_output
        embedded = embedded + 0 * features.sum()
    hidden = self.model(inputs_embeds=embedded, position_ids=position_ids, use_cache=False, **layout).last_hidden_state
    return hidden[0, columns]


def position_logits(
    self: InternVLForConditionalGeneration,
    input_ids: Tensor,
    position_ids: Tensor,
    subtree_end: Tensor | None,
    columns: Tensor,
    pixel_values: Tensor | None = None,
    vocabulary: Tensor | None = None,
    layout: dict[str, Any] | None = None,
) -> Tensor:
    """Logits at `position_hidden`'s positions, over the tokens of `vocabulary` or over all of them.

    Returns float32 [positions, vocabulary].
    """
    hidden = position_hidden(self, input_ids, position_ids, subtree_end, columns, pixel_values, layout=layout)
    return self.lm_head(hidden, vocabulary)


def head_logits(self: nn.Linear, hidden: Tensor, vocabulary: Tensor | None = None) -> Tensor:
    """The LM head for the tokens of `vocabulary` alone, in float32. hidden: [positions, width].

    A forward of the head's own, so that ZeRO-3 gathers its weight.
    """
    if vocabulary is None:
        return F.linear(hidden, self.weight).float()
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.float(), self.weight[vocabulary].float())


def soft_label_loss(yes_no_logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of two-way cross-entropies against soft labels (paper, section 3.3).

    -[y log p + (1 - y) log(1 - p)] with p = softmax(Yes, No)[Yes].
    yes_no_logits: [labels, 2]; labels: [labels], in 0..1.
    """
    log_p = F.log_softmax(yes_no_logits.float(), dim=-1)
    labels = labels.float()
    return -(labels * log_p[:, 0] + (1 - labels) * log_p[:, 1]).sum()


def concentration(yes_no_logits: Tensor) -> Tensor:
    """How sure a PRM trained with --label_loss beta_binomial is, as log of a number of rollouts: [labels].

    log s of Beta(s p, s (1 - p)), with t = logsumexp(Yes, No), which p does not depend on, and s = t + sqrt(1 + t^2),
    above 0 and with a gradient everywhere. yes_no_logits: [labels, 2].
    """
    return torch.asinh(yes_no_logits.float().logsumexp(dim=-1))


def yes_no_ids(tokenizer: Any) -> Tensor:
    """Ids of the tokens `Yes` and `No`: [2]."""
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("Yes", "No")]
    if any(len(pieces) != 1 for pieces in ids):
        raise BadInput("the tokenizer needs several tokens for 'Yes' or 'No'; a PRM needs one token each")
    return torch.tensor([pieces[0] for pieces in ids])


def best_attention(dtype: torch.dtype) -> str:
    """For the vision tower: flash-attention 2 on a GPU that has it (it takes no float32), else torch's own."""
    flash = torch.cuda.is_available() and transformers.utils.is_flash_attn_2_available()
    return "flash_attention_2" if flash and dtype != torch.float32 else "sdpa"


def load_config(checkpoint: str) -> InternVLConfig:
    """Raises BadInput when the folder holds no native InternVL's config.json."""
    with refusing(f"{checkpoint}: not a native InternVL checkpoint"):
        config = transformers.AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    if not isinstance(config, InternVLConfig):
        raise BadInput(f"{checkpoint}: not a native InternVL checkpoint (model_type {config.model_type!r})")
    return config


def load_model(
    checkpoint: str, dtype: torch.dtype, packed_attention: str = "segments"
) -> InternVLForConditionalGeneration:
    """A native InternVL checkpoint (policy or PRM) whose forward is `position_logits`.

    packed_attention: `segments` or `flex_attention` (GPU only). Raises BadInput when the folder is not one.
    """
    with refusing(f"{checkpoint}: not a native InternVL checkpoint"):
        model, report = InternVLForConditionalGeneration.from_pretrained(
            checkpoint,
            dtype=dtype,
            attn_implementation={"text_config": packed_attention, "vision_config": best_attention(dtype)},
            local_files_only=True,
            output_loading_info=True,
        )
    # transformers would fill what is missing with random weights and go on.
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if wrong:
        raise BadInput(
            f"{checkpoint}: not a native InternVL checkpoint ({len(wrong)} weights missing or unknown: {wrong[0]})"
        )
    # Bound to the instance: transformers renames weights on loading and saving by the stock class, a subclass of it
    # would be saved under names that vLLM cannot load.
    return with_position_logits(model)


def with_position_logits(model: InternVLForConditionalGeneration) -> InternVLForConditionalGeneration:
    model.forward = MethodType(position_logits, model)
    model.lm_head.forward = MethodType(head_logits, model.lm_head)
    return model


def load_processor(checkpoint: str) -> Any:
    with refusing(f"{checkpoint}: no processor there"):
        processor = transformers.AutoProcessor.from_pretrained(checkpoint, local_files_only=True)
        processor.tokenizer(""), processor.image_processor  # without its class's name a tokenizer alone is loaded
    return processor


def image_tiles(processor: Any, paths: Sequence[str]) -> tuple[Tensor | None, list[int]]:
    """Decode and tile images as the checkpoint's processor says.

    Returns pixel_values [tiles, 3, height, width] (None without images) and each image's number of <IMG_CONTEXT>.
    """
    if not paths:
        return None, []
    out = processor.image_processor(images=[open_picture(path) for path in paths], return_tensors="pt")
    tiles, counts = out["pixel_values"], [int(count) for count in out["num_patches"]]
    if not getattr(processor.image_processor, "use_thumbnail", True):
        # The native processor always adds the thumbnail, as the last tile of an image cut into several.
        kept = [part[:-1] if len(part) > 1 else part for part in tiles.split(counts)]
        tiles, counts = torch.cat(kept), [len(part) for part in kept]
    return tiles, [count * processor.image_seq_length for count in counts]


def image_token_counts(processor: Any, paths: Sequence[str]) -> list[int]:
    """The <IMG_CONTEXT> counts of `image_tiles`, from the images' sizes alone."""
    counts = []
    for path in paths:
        picture = look(path)
        tiles = processor.image_processor.get_number_of_image_patches(picture.height, picture.width)
        thumbnail = getattr(processor.image_processor, "use_thumbnail", True)
        counts.append((tiles if thumbnail or tiles == 1 else tiles - 1) * processor.image_seq_length)
    return counts


def row_tensors(row: Packed, tiles: Sequence[Tensor]) -> dict[str, Tensor]:
    """What `position_logits` takes; tiles: of the row's images, in their order."""
    return {
        "input_ids": torch.tensor([row.input_ids]),
        "position_ids": torch.tensor([row.position_ids]),
        "subtree_end": torch.tensor(row.subtree_end),
        "columns": torch.tensor(row.columns, dtype=torch.long),
        **({"pixel_values": torch.cat(list(tiles))} if tiles else {}),
    }
