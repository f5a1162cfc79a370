"""Tokenizer and processor of an original InternVL2.5 folder -> native ones with the same ids, and back.

Qwen2 checkpoints hold vocab.json + merges.txt or tokenizer.json, InternLM2 ones a sentencepiece tokenizer.model; added
tokens stand in added_tokens.json, tokenizer_config.json or tokenizer.json. No token is added, dropped or renumbered.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from transformers import (
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from mm_prm.cli import BadInput
from mm_prm.files import read_json, read_object, write_atomic, write_json
from mm_prm.prm_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START
from mm_prm.prm_model import KEPT
from mm_prm.prompts import CHAT_TEMPLATE

SMALL_FILES = ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.model", "tokenizer.json"]
SMALL_FILES += ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"]
NAMED = ("unk_token", "bos_token", "eos_token", "pad_token")
DEFAULTS = {  # of the original tokenizer classes, for what tokenizer_config.json leaves out
    "internlm2": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},
    "qwen2": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
# The native processor wants a token that stands for a video. A new `<video>` would change the ids of text that holds
# it, so an unused token takes that part; with IMAGE_CONTEXT images work and videos do not.
VIDEO_TOKENS = ("<video>", "<quad>", "</quad>", "<box>", "<ref>", IMAGE_CONTEXT)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # sentencepiece's kinds of pieces
SPACE = "\u2581"  # how sentencepiece spells a space
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as in the original preprocessing


def optional_json(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def tokenizer_settings(folder: Path, family: str) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json over the class's defaults; `special`: all special tokens."""
    settings: dict[str, Any] = dict(DEFAULTS[family])
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        settings |= optional_json(folder / name)
    settings |= {name: spelling(settings.get(name)) for name in NAMED}
    settings["special"] = {settings[name] for name in NAMED} - {None}
    settings["special"] |= {spelling(token) for token in settings.get("additional_special_tokens") or ()}
    return settings


def spelling(token: str | dict[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, dict) else token


def added_tokens(folder: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    """Every token that the files say is split off before text is tokenised, by id."""
    described = {int(number): entry for number, entry in (settings.get("added_tokens_decoder") or {}).items()}
    for entry in optional_json(folder / "tokenizer.json").get("added_tokens", []):
        described.setdefault(entry["id"], entry)
    for token, number in optional_json(folder / "added_tokens.json").items():
        # Nothing says whether it is special. As a special token it can be split, so text cannot forge it.
        described.setdefault(number, {"content": token, "special": True})
    return {
        number: AddedToken(
            entry["content"],
            special=bool(entry.get("special")) or entry["content"] in settings["special"],
            normalized=False,  # the original classes look for added tokens in the text as it is
            **{flag: bool(entry.get(flag)) for flag in ("single_word", "lstrip", "rstrip")},
        )
        for number, entry in sorted(described.items())
    }


def with_added(backend: Tokenizer, added: dict[int, AddedToken]) -> Tokenizer:
    """The same tokenizer with exactly these added tokens.

    They go into the vocabulary as well, without merges: `tokenizers` numbers them itself unless it finds them there.
    """
    spec = json.loads(backend.to_str())
    spec["model"]["vocab"] |= {token.content: number for number, token in added.items()}
    flags = ("content", "special", "normalized", "single_word", "lstrip", "rstrip")
    spec["added_tokens"] = [
        {"id": number} | {flag: getattr(token, flag) for flag in flags} for number, token in sorted(added.items())
    ]
    return Tokenizer.from_str(json.dumps(spec))


def qwen2_backend(folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    files = [folder / "vocab.json", folder / "merges.txt"]
    if missing := [f"{path}: no such file" for path in files if not path.exists()]:
        raise BadInput(*missing)
    return Qwen2Tokenizer(*map(str, files)).backend_tokenizer


def read_sentencepiece(path: Path) -> Any:
    """The parsed model file."""
    from sentencepiece import sentencepiece_model_pb2  # here: it needs protobuf, which the Qwen2 family does not

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except Exception as error:  # protobuf's DecodeError, whose module depends on protobuf's build
        raise BadInput(f"{path}: not a sentencepiece model ({error})") from None
    return model


def sentencepiece_backend(path: Path, added: dict[int, AddedToken]) -> Tokenizer:
    """A fast tokenizer with the ids of a sentencepiece BPE model. Raises BadInput where there can be none.

    User-defined pieces are put into `added`, and a token that took the id of one also gets the text that spells it.
    """
    model = read_sentencepiece(path)
    pieces, rules = model.pieces, model.normalizer_spec
    scores = {piece.piece: piece.score for piece in pieces if piece.type == NORMAL}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])  # equal scores keep their order
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    text = {piece.piece for piece in pieces if piece.type == BYTE or len(piece.piece) == 1} | set(map("".join, merges))
    taken = {n: piece for n, piece in enumerate(pieces) if n in added and added[n].content != piece.piece}
    refused = [
        f"id {n} of {added[n].content!r} is that of text {taken[n].piece!r}" for n in taken if taken[n].piece in text
    ]
    for number, piece in enumerate(pieces):
        if piece.type == USER_DEFINED:
            token = added.get(number, AddedToken(piece.piece, special=False))
            added[number] = AddedToken(token.content, special=token.special, normalized=number in taken)
    spelled = {piece.piece: added[number].content for number, piece in taken.items() if piece.type == USER_DEFINED}
    unused = [piece.piece for piece in pieces if piece.type == UNUSED]
    if any(piece[:cut] in scores and piece[cut:] in scores for piece in unused for cut in range(1, len(piece))):
        refused.append("pieces of the kind 'unused' that text is made of are not supported")
    if any(piece.type == USER_DEFINED for piece in pieces) and (
        rules.add_dummy_prefix or rules.remove_extra_whitespaces
    ):
        refused.append("user-defined pieces with add_dummy_prefix or remove_extra_whitespaces are not supported")
    if model.trainer_spec.model_type != 2 or model.trainer_spec.treat_whitespace_as_suffix:
        refused.append("is no BPE model with spaces in front of words")
    if rules.precompiled_charsmap and rules.name != "nmt_nfkc":
        refused.append(f"normalizer {rules.name!r} is neither 'identity' nor 'nmt_nfkc'")
    if refused:
        raise BadInput(*(f"{path}: {line}" for line in refused))
    vocab = {piece.piece: number for number, piece in enumerate(pieces) if number not in taken}
    vocab |= {token.content: number for number, token in added.items()}
    unknown = next(piece.piece for piece in pieces if piece.type == UNKNOWN)
    fallback = any(piece.type == BYTE for piece in pieces)
    backend = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback))
    steps = [normalizers.Replace(piece, token) for piece, token in spelled.items()]
    backend.normalizer = normalizers.Sequence([*steps, *normalizer_steps(rules)])
    last = [decoders.Strip(" ", 1, 0)] if rules.add_dummy_prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    return backend


def normalizer_steps(rules: Any) -> list[Any]:
    """What a sentencepiece model does to text before it looks for pieces. rules: its normalizer_spec."""
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        # Precompiled alone looks at whole grapheme clusters, sentencepiece does not: it is left with what NFKC of this
        # library's Unicode version does not know. Two characters that only some versions of the table change are held
        # back. What differs is a ligature before a combining mark.
        table = normalizers.Precompiled(rules.precompiled_charsmap)
        held = {char: chr(0xF8F0 + n) for n, char in enumerate("\u200d\uff5e") if table.normalize_str(char) == char}
        steps += [normalizers.Replace(char, private) for char, private in held.items()]
        steps += [normalizers.Nmt(), normalizers.NFKC(), table]
        steps += [normalizers.Replace(private, char) for char, private in held.items()]
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(rf"\A +|[ {SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if rules.add_dummy_prefix else []
    return [*steps, normalizers.Replace(" ", SPACE)]


def native_tokenizer(folder: Path, family: str) -> PreTrainedTokenizerFast:
    """The native tokenizer of an original folder. Raises BadInput when it lacks a token that pictures need."""
    settings = tokenizer_settings(folder, family)
    added = added_tokens(folder, settings)
    if family == "internlm2":
        known = {token.content for token in added.values()}
        # The original class splits its named tokens off as well, listed or not.
        for number, piece in enumerate(read_sentencepiece(folder / "tokenizer.model").pieces):
            if piece.piece in settings["special"] - known:
                added.setdefault(number, AddedToken(piece.piece, special=True, normalized=False))
        backend = with_added(sentencepiece_backend(folder / "tokenizer.model", added), added)
    else:
        backend = with_added(qwen2_backend(folder), added)
    names = [token.content for token in added.values()]
    if missing := [token for token in (IMAGE_START, IMAGE_END, IMAGE_CONTEXT) if token not in names]:
        raise BadInput(f"{folder}: the tokenizer lacks the token(s) {', '.join(missing)}")
    bos = family == "internlm2" and settings.get("add_bos_token", True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: settings[name] for name in NAMED},
        **({"add_bos_token": True, "add_eos_token": settings.get("add_eos_token", False)} if bos else {}),
        additional_special_tokens=[token.content for token in added.values() if token.special],
        extra_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE_CONTEXT,
            "video_token": next(token for token in VIDEO_TOKENS if token in names),
        },
        model_max_length=settings.get("model_max_length") or int(1e30),
        clean_up_tokenization_spaces=False,
        # What the server is asked begins like what was trained on: with a BOS where the tokenizer has one.
        chat_template=("{{- bos_token -}}" if bos else "") + CHAT_TEMPLATE,
    )


def native_processor(folder: Path, family: str, config: dict[str, Any]) -> InternVLProcessor:
    """config: the original config.json."""
    tokenizer, vision = native_tokenizer(folder, family), config["vision_config"]
    size = config.get("force_image_size") or vision.get("image_size", 224)  # pixels of a tile's side
    patches, ratio = (size // vision.get("patch_size", 14)) ** 2, config.get("downsample_ratio", 0.5)
    look = optional_json(folder / "preprocessor_config.json")
    look = {"image_mean": look.get("image_mean", MEAN), "image_std": look.get("image_std", STD)}
    look["size"] = {"height": size, "width": size}
    tiled = bool(config.get("dynamic_image_size", False))
    images = GotOcr2ImageProcessor(
        **look,
        resample=3,  # bicubic
        crop_to_patches=tiled,
        min_patches=config.get("min_dynamic_patch", 1) if tiled else 1,
        max_patches=config.get("max_dynamic_patch", 6) if tiled else 1,
        use_thumbnail=bool(config.get("use_thumbnail", False)),
    )
    return InternVLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(**look),
        image_seq_length=int(patches * ratio**2),
        chat_template=tokenizer.chat_template,
    )


# ---------------------------------------------------------------- and back


def keep_small_files(folder: Path, output: Path) -> None:
    """Copy what the way back needs into `output`, byte for byte; code and weights stay behind."""
    shutil.rmtree(output / KEPT, ignore_errors=True)
    for path in (folder / name for name in SMALL_FILES):
        if path.exists():
            write_atomic(output / KEPT / path.name, path.read_bytes())


def original_preprocessor(images: GotOcr2ImageProcessor) -> dict[str, Any]:
    """preprocessor_config.json as the published folders have it."""
    look = {"image_mean": list(images.image_mean), "image_std": list(images.image_std), "resample": 3}
    size = {"crop_size": images.size["height"], "size": images.size["height"]}
    done = dict.fromkeys(("do_center_crop", "do_normalize", "do_resize"), True)
    return {"feature_extractor_type": "CLIPFeatureExtractor", **size, **done, **look}


def write_original_tokenizer(folder: Path, output: Path, family: str) -> None:
    """The kept files, with the tokens that were added since; without kept files (Qwen2), all from tokenizer.json."""
    kept, spec = folder / KEPT, read_json(folder / "tokenizer.json")
    for path in sorted(kept.glob("*")):
        write_atomic(output / path.name, path.read_bytes())
    known = {token.content for token in added_tokens(kept, tokenizer_settings(kept, family)).values()}
    if family == "internlm2":
        known |= {piece.piece for piece in read_sentencepiece(kept / "tokenizer.model").pieces}
    new = {entry["content"]: entry for entry in spec["added_tokens"] if entry["content"] not in known}
    config = optional_json((kept if kept.exists() else folder) / "tokenizer_config.json")
    if not kept.exists():
        config["tokenizer_class"] = "Qwen2Tokenizer"
        write_json(output / "vocab.json", {t: n for t, n in spec["model"]["vocab"].items() if t not in new})
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["model"]["merges"]]
        write_atomic(output / "merges.txt", "#version: 0.2\n" + "".join(f"{pair}\n" for pair in merges))
    if new:
        numbers = {token: entry["id"] for token, entry in new.items()}
        write_json(output / "added_tokens.json", optional_json(output / "added_tokens.json") | numbers)
        described = {str(entry.pop("id")): entry for entry in new.values()}
        config["added_tokens_decoder"] = (config.get("added_tokens_decoder") or {}) | described
        write_json(output / "tokenizer_config.json", config)
        if not kept.exists() or (kept / "tokenizer.json").exists():
            shutil.copyfile(folder / "tokenizer.json", output / "tokenizer.json")
