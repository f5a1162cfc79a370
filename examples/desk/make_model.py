"""Make an untrained native InternVL of 3 million parameters.

    python examples/desk/make_model.py --sft_file runs/desk/data/sft.jsonl \\
        --output_dir runs/desk/init

Tokens and positions are those that a teacher's solutions need. The folder has
all that a real checkpoint has: config, weights, tokenizer, chat template,
processor, generation config. 112 x 112 pixel pictures become 16 image tokens;
one tile, no thumbnail.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
)

from mm_prm import cli
from mm_prm.files import read_jsonl
from mm_prm.prm_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START, MARKER, TURN_END, TURN_START
from mm_prm.prompts import CHAT_TEMPLATE, SYSTEM_MESSAGE

END, VIDEO = "<|endoftext|>", "<video>"
SPECIAL = [END, TURN_START, TURN_END, IMAGE_START, IMAGE_END, IMAGE_CONTEXT, VIDEO, MARKER]
# Ordinary (non-special) added tokens: the server strips special ones from its text, and a step that ends on an
# added token is tokenised the same when it comes back as a prefix.
TAGS = ["<step>", "</step>", "<answer>", "</answer>"]
IMAGE_SIZE, PATCH_SIZE, IMAGE_TOKENS = 112, 14, 16
CONTEXT_LENGTH = 1024


def make_tokenizer(texts: list[str], vocab_size: int = 800) -> PreTrainedTokenizerFast:
    """A byte-level BPE that splits digits and gives `Yes` and `No` a token each."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\p{N}|\s?[^\s\p{N}]+\s?|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # The fixed texts are repeated so that each becomes few tokens.
    fixed = [SYSTEM_MESSAGE, "system\n", "user\n", "assistant\n", "\nQuestion: ", "\nProcess: ", "Yes", "No"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *TAGS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *fixed * len(texts)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END,
        additional_special_tokens=[token for token in SPECIAL if token not in (END, TURN_END)],
        extra_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE_CONTEXT,
            "video_token": VIDEO,
        },
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    fast.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    for word in ("Yes", "No", *TAGS):
        if len(fast(word)["input_ids"]) != 1:
            raise cli.Fault(f"the trained tokenizer needs several tokens for {word!r}")
    return fast


def make_processor(tokenizer: PreTrainedTokenizerFast) -> InternVLProcessor:
    """The native processor, one tile of 112 x 112; pictures are mostly white, hence the mean."""
    look = {"image_mean": [0.9] * 3, "image_std": [0.3] * 3, "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    # InternVL tiles its pictures with the GOT-OCR2 processor.
    images = GotOcr2ImageProcessor(**look, crop_to_patches=False, min_patches=1, max_patches=1)
    return InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**look),
        image_seq_length=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> InternVLForConditionalGeneration:
    """A randomly initialised InternVL: 2-layer vision tower of width 128, 4-layer Qwen2 of width 192."""
    config = InternVLConfig(
        vision_config={
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "attention_bias": True,
            "layer_scale_init_value": 1.0,  # the default 0.1 is meant for depth; two layers learn far faster with 1
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "intermediate_size": 768,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT_LENGTH,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT),
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_length=CONTEXT_LENGTH
    )
    return model


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--sft_file", type=Path, required=True, help="solutions whose words the tokenizer learns")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="decides the initial weights")
    args = parser.parse_args()
    texts = [turn["value"] for row in read_jsonl(args.sft_file) for turn in row["conversations"]]
    tokenizer = make_tokenizer(texts)
    model = make_model(tokenizer, args.seed)
    make_processor(tokenizer).save_pretrained(args.output_dir)
    model.save_pretrained(args.output_dir)
    print(f"{args.output_dir}: {model.num_parameters():,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    cli.run(main)
