"""Turn an original InternVL2.5 checkpoint into the native format, or back.

    python internvl_chat/tools/convert_checkpoint.py \\
        --input_dir InternVL2_5-38B --output_dir InternVL2_5-38B-native
    python internvl_chat/tools/convert_checkpoint.py --input_dir mm_prm \\
        --output_dir mm_prm-original --to original

Original means InternVLChatModel, native the transformers format. Only names and
layouts change: every weight keeps its numbers and dtype, every text its token
ids. No remote code runs or is copied: to be loaded, an original folder needs
the *.py files of the published one. Unknown, missing and misshapen weights are
refused by name before anything is written. Works shard by shard. Stopped at any
point, the same command goes on: a shard that is there is compared with the
input and kept if it is the same. config.json is written last.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from convert_tokenizer import (
    keep_small_files,
    native_processor,
    optional_json,
    original_preprocessor,
    write_original_tokenizer,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor
from transformers.utils import logging

from mm_prm import cli
from mm_prm.cli import BadInput, Fault
from mm_prm.files import read_object, write_atomic, write_json
from mm_prm.prm_format import TURN_END
from mm_prm.prm_model import KEPT, load_config, load_processor

INDEX = "model.safetensors.index.json"
UNFINISHED = ".unfinished"  # a folder, for a killed safetensors leaves temporary files of its own names behind
HEAD, EMBEDDING = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"


@dataclass(frozen=True)
class Block:
    """One original weight and the native weights it holds. split and fuse turn one into the other."""

    original: str
    natives: tuple[str, ...]
    split: Callable[[Tensor], list[Tensor]] = lambda weight: [weight]
    fuse: Callable[[list[Tensor]], Tensor] = lambda parts: parts[0]

    def sources(self, to: str) -> tuple[str, ...]:
        """Names of the weights to read, `to` one of the two formats."""
        return (self.original,) if to == "native" else self.natives

    def targets(self, to: str) -> tuple[str, ...]:
        """Names of the weights to write."""
        return self.natives if to == "native" else (self.original,)


# ---------------------------------------------------------------- which weight is which


def vision_blocks(config: InternVLConfig) -> Iterator[Block]:
    """InternViT: one fused qkv where the native model has three projections."""
    vision = config.vision_config
    old, new = "vision_model.embeddings", "vision_tower.embeddings"
    yield Block(f"{old}.class_embedding", (f"{new}.cls_token",))
    yield Block(f"{old}.position_embedding", (f"{new}.position_embeddings",))
    yield from renamed(f"{old}.patch_embedding", f"{new}.patch_embeddings.projection", ("weight", "bias"))
    norm = ("weight", "bias") if vision.norm_type == "layer_norm" else ("weight",)
    for layer in range(vision.num_hidden_layers):
        old, new = f"vision_model.encoder.layers.{layer}", f"vision_tower.encoder.layer.{layer}"
        for part in ("weight", "bias") if vision.attention_bias else ("weight",):
            natives = tuple(f"{new}.attention.{name}_proj.{part}" for name in "qkv")
            yield Block(f"{old}.attn.qkv.{part}", natives, lambda fused: list(fused.chunk(3)), torch.cat)
        yield from renamed(f"{old}.attn.proj", f"{new}.attention.projection_layer", ("weight", "bias"))
        for name in ("q_norm", "k_norm") if vision.use_qk_norm else ():
            yield from renamed(f"{old}.attn.{name}", f"{new}.attention.{name}", ("weight",))
        for name in ("mlp.fc1", "mlp.fc2"):
            yield from renamed(f"{old}.{name}", f"{new}.{name}", ("weight", "bias"))
        yield from renamed(f"{old}.norm1", f"{new}.layernorm_before", norm)
        yield from renamed(f"{old}.norm2", f"{new}.layernorm_after", norm)
        yield from (Block(f"{old}.ls{n}", (f"{new}.lambda_{n}",)) for n in (1, 2))


def renamed(original: str, native: str, parts: tuple[str, ...]) -> Iterator[Block]:
    return (Block(f"{original}.{part}", (f"{native}.{part}",)) for part in parts)


def projector_blocks(config: InternVLConfig) -> Iterator[Block]:
    for number, native in ((0, "layer_norm"), (1, "linear_1"), (3, "linear_2")):
        yield from renamed(f"mlp1.{number}", f"multi_modal_projector.{native}", ("weight", "bias"))


def qwen2_blocks(config: InternVLConfig) -> Iterator[Block]:
    """The native model has the same names and layouts."""
    text, model = config.text_config, "language_model.model"
    same = [f"{model}.embed_tokens.weight", f"{model}.norm.weight", HEAD]
    for layer in range(text.num_hidden_layers):
        names = [f"self_attn.{name}_proj.{part}" for name in "qkv" for part in ("weight", "bias")]
        names += ["self_attn.o_proj.weight", *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))]
        names += ["input_layernorm.weight", "post_attention_layernorm.weight"]
        same += [f"{model}.layers.{layer}.{name}" for name in names]
    yield from (Block(name, (name,)) for name in same)


def internlm2_blocks(config: InternVLConfig) -> Iterator[Block]:
    """InternLM2 is a Llama whose q, k and v are one weight, laid out per KV head as (q, ..., q, k, v)."""
    text, model = config.text_config, "language_model.model"
    width = text.hidden_size // text.num_attention_heads
    queries = text.num_attention_heads // text.num_key_value_heads

    def split(fused: Tensor) -> list[Tensor]:
        heads = fused.view(text.num_key_value_heads, queries + 2, width, *fused.shape[1:])  # kv_head part width hidden
        return [part.reshape(-1, *fused.shape[1:]) for part in (heads[:, :-2], heads[:, -2], heads[:, -1])]

    def fuse(parts: list[Tensor]) -> Tensor:
        heads = [part.view(text.num_key_value_heads, -1, width, *part.shape[1:]) for part in parts]
        return torch.cat(heads, dim=1).flatten(0, 2)

    yield Block(f"{model}.tok_embeddings.weight", (f"{model}.embed_tokens.weight",))
    yield Block(f"{model}.norm.weight", (f"{model}.norm.weight",))
    yield Block("language_model.output.weight", (HEAD,))
    bias = ("weight", "bias") if text.attention_bias else ("weight",)
    plain = {"feed_forward.w1": "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj"}
    plain |= {"feed_forward.w2": "mlp.down_proj", "attention_norm": "input_layernorm"}
    plain |= {"ffn_norm": "post_attention_layernorm"}
    for layer in range(text.num_hidden_layers):
        at = f"{model}.layers.{layer}"
        for part in bias:
            natives = tuple(f"{at}.self_attn.{name}_proj.{part}" for name in "qkv")
            yield Block(f"{at}.attention.wqkv.{part}", natives, split, fuse)
        yield from renamed(f"{at}.attention.wo", f"{at}.self_attn.o_proj", bias)
        for old, new in plain.items():
            yield from renamed(f"{at}.{old}", f"{at}.{new}", ("weight",))


TEXT_BLOCKS = {"qwen2": qwen2_blocks, "llama": internlm2_blocks}  # by the native text model's type


def blocks(config: InternVLConfig) -> list[Block]:
    text = TEXT_BLOCKS[config.text_config.model_type]
    return [*vision_blocks(config), *projector_blocks(config), *text(config)]


def native_shapes(config: InternVLConfig) -> dict[str, list[int]]:
    """Name, as saved, and shape of every weight of the native model."""
    with torch.device("meta"):
        weights = InternVLForConditionalGeneration(config).state_dict()
    return {saved_name(name): list(weight.shape) for name, weight in weights.items()}


def saved_name(name: str) -> str:
    """transformers keeps the names of its older layout on disk, which vLLM reads."""
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    if name.startswith("model.language_model."):
        return name.replace("model.language_model.", "language_model.model.", 1)
    return name.removeprefix("model.")


# ---------------------------------------------------------------- configs

VISION_FIELDS = {  # original -> native: the same meaning; and the original class's default
    "hidden_size": ("hidden_size", 3200),
    "num_hidden_layers": ("num_hidden_layers", 48),
    "num_attention_heads": ("num_attention_heads", 25),
    "intermediate_size": ("intermediate_size", 12800),
    "hidden_act": ("hidden_act", "gelu"),
    "layer_norm_eps": ("layer_norm_eps", 1e-6),
    "num_channels": ("num_channels", 3),
    "norm_type": ("norm_type", "rms_norm"),
    "qkv_bias": ("attention_bias", False),
    "qk_normalization": ("use_qk_norm", True),
    "initializer_range": ("initializer_range", 0.02),
    "initializer_factor": ("layer_scale_init_value", 0.1),
}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
TEXT_FIELDS = {  # the same name in both; the default of both original classes
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
WINDOW = ("use_sliding_window", "sliding_window", "max_window_layers")  # Qwen2, in use or not
FAMILIES = {"qwen2": "qwen2", "internlm2": "llama"}  # original text model -> native
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "internlm2": "InternLM2ForCausalLM"}
REMOTE = {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
REMOTE |= dict.fromkeys(("AutoModel", "AutoModelForCausalLM"), "modeling_internvl_chat.InternVLChatModel")


def original_family(original: dict[str, Any], path: Path) -> str:
    """`qwen2` or `internlm2`. Raises BadInput that names each field this converter cannot honour."""
    if original.get("model_type") != "internvl_chat":
        native = ", the native format already" if original.get("model_type") == "internvl" else ""
        raise BadInput(f"{path}: field 'model_type': {original.get('model_type')!r} is not 'internvl_chat'{native}")
    if lacking := [name for name in ("llm_config", "vision_config") if not isinstance(original.get(name), dict)]:
        raise BadInput(*(f"{path}: field {name!r} is missing" for name in lacking))
    text, vision = original["llm_config"], original["vision_config"]
    named = (text.get("architectures") or [None])[0]  # what the original goes by
    family = next((key for key, name in ARCHITECTURES.items() if name == named), text.get("model_type"))
    wrong = [f"field 'llm_config.{name}' is missing" for name in SIZES if not isinstance(text.get(name), int)]
    if family not in FAMILIES:
        wrong.append(f"field 'llm_config.model_type': {family!r} is not one of {', '.join(FAMILIES)}")
    # Trimmed files leave it out; every InternVL2.5 is a v2 (the class's default, v1, is older than these models).
    if original.get("ps_version", "v2") != "v2":
        wrong.append(f"field 'ps_version': {original['ps_version']!r} is not 'v2'")
    if vision.get("qk_normalization", True) and vision.get("layer_norm_eps", 1e-6) != 1e-6:
        wrong.append("field 'vision_config.layer_norm_eps': the native QK norm knows 1e-6 only")
    if wrong:
        raise BadInput(*(f"{path}: {line}" for line in wrong))
    return family


def number(value: Any, default: Any) -> Any:
    return float(value) if isinstance(default, float) else value  # 1 for 1.0, which the native config refuses


def native_config(original: dict[str, Any], family: str, processor: InternVLProcessor) -> InternVLConfig:
    text, vision = original["llm_config"], original["vision_config"]
    native_text = {name: text[name] for name in SIZES}
    native_text |= {name: number(text.get(name, default), default) for name, default in TEXT_FIELDS.items()}
    native_text["num_key_value_heads"] = text.get("num_key_value_heads") or text["num_attention_heads"]
    tied = bool(text.get("tie_word_embeddings", False))  # the whole model's own field is not looked at
    native_text |= {"model_type": FAMILIES[family], "tie_word_embeddings": tied}
    if family == "internlm2":
        native_text["attention_bias"] = text.get("bias", True)
    elif text.get("use_sliding_window"):
        native_text |= {name: text[name] for name in WINDOW if name in text}
    scaling = dict(text.get("rope_scaling") or {})
    kind = scaling.pop("type", "default")
    rope = {"rope_type": scaling.pop("rope_type", kind), "rope_theta": float(text.get("rope_theta", 10000))}
    native_vision = {
        native: number(vision.get(old, default), default) for old, (native, default) in VISION_FIELDS.items()
    }
    native_vision["image_size"] = [vision.get("image_size", 224)] * 2
    native_vision["patch_size"] = [vision.get("patch_size", 14)] * 2
    return InternVLConfig(
        vision_config=native_vision,
        text_config={**native_text, "rope_parameters": {**scaling, **rope}},
        image_token_id=processor.image_token_id,
        image_seq_length=processor.image_seq_length,
        downsample_ratio=float(original.get("downsample_ratio", 0.5)),
        vision_feature_layer=original.get("select_layer", -1),
        tie_word_embeddings=tied,
        dtype=original.get("torch_dtype") or original.get("dtype") or "bfloat16",
        architectures=["InternVLForConditionalGeneration"],
    )


def original_config(config: InternVLConfig, images: Any, kept: dict[str, Any]) -> dict[str, Any]:
    """The original config.json of a native checkpoint. images: its image processor; kept: what it once came from."""
    text, vision = config.text_config.to_dict(), config.vision_config.to_dict()
    family = next(old for old, new in FAMILIES.items() if new == text["model_type"])
    rope = dict(text["rope_parameters"])
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    dtype = {"torch_dtype": str(config.dtype or "bfloat16").removeprefix("torch.")}
    llm = {name: text[name] for name in (*SIZES, *TEXT_FIELDS)}
    llm |= {"model_type": family, "architectures": [ARCHITECTURES[family]], "rope_theta": theta}
    llm |= {"rope_scaling": None if kind == "default" else {"type": kind, **rope}}
    llm |= {"tie_word_embeddings": config.tie_word_embeddings}
    if family == "internlm2":
        llm["bias"] = text["attention_bias"]
    elif text["use_sliding_window"]:
        llm |= {name: text[name] for name in WINDOW}
    tower = {name: vision[native] for name, (native, _) in VISION_FIELDS.items()}
    tower |= {"model_type": "intern_vit_6b", "architectures": ["InternVisionModel"]}
    tower |= {"image_size": vision["image_size"][0], "patch_size": vision["patch_size"][0]}
    chat: dict[str, Any] = {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "auto_map": REMOTE}
    chat |= {"template": "internvl2_5", "ps_version": "v2", "downsample_ratio": config.downsample_ratio}
    chat |= {"select_layer": config.vision_feature_layer, "force_image_size": images.size["height"]}
    chat |= {"dynamic_image_size": images.crop_to_patches, "use_thumbnail": getattr(images, "use_thumbnail", True)}
    if images.crop_to_patches:
        chat |= {"min_dynamic_patch": images.min_patches, "max_dynamic_patch": images.max_patches}
    known = {name: kept[name] for name in ("auto_map", "template") if name in kept}
    kept_llm, kept_tower = kept.get("llm_config", {}), kept.get("vision_config", {})
    towers = {"llm_config": {**kept_llm, **llm, **dtype}, "vision_config": {**kept_tower, **tower, **dtype}}
    return kept | chat | known | dtype | towers


# ---------------------------------------------------------------- weights


@dataclass(frozen=True)
class Stored:
    """Where a weight is, and what its file's header says of it."""

    path: Path
    shape: list[int]
    dtype: str


def stored_weights(folder: Path) -> dict[str, Stored]:
    """Every weight of a folder. Raises BadInput when there is none, a shard is not there, or one cannot be read."""
    with cli.refusing(f"{folder / INDEX}: no index of weights"):
        listed = optional_json(folder / INDEX).get("weight_map", {})
        files = sorted({folder / name for name in listed.values()} or folder.glob("*.safetensors"))
    if not files:
        raise BadInput(f"{folder}: holds no *.safetensors")
    found: dict[str, Stored] = {}
    bad: list[str] = []
    for path in files:
        try:
            with safe_open(path, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118 (no mapping)
                    if name in found:
                        bad.append(f"{path}: weight {name} is in {found[name].path.name} as well")
                    header = shard.get_slice(name)
                    found[name] = Stored(path, header.get_shape(), header.get_dtype())
        except (SafetensorError, OSError) as error:
            bad.append(f"{path}: cannot be read as safetensors ({error})")
    if bad:
        raise BadInput(*bad)
    return found


def check_weights(folder: Path, found: dict[str, Stored], layout: list[Block], shapes: dict[str, list[int]], to: str):
    """Raises BadInput naming every weight that is missing, has no place, or has another shape than the model's."""
    expected = shapes
    if to == "native":  # a fused weight is as long as its parts together
        rows = {block: sum(shapes[name][0] for name in block.natives) for block in layout}
        expected = {block.original: [rows[block], *shapes[block.natives[0]][1:]] for block in layout}
    lines = [f"{folder}: weight {name} is missing" for name in sorted(expected.keys() - found.keys())]
    lines += [f"{found[name].path}: weight {name} has no place here" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if found[name].shape != expected[name]:
            lines.append(f"{found[name].path}: weight {name} is {found[name].shape}, expected {expected[name]}")
    for block in layout if to == "original" and not lines else ():
        if len({found[name].dtype for name in block.natives}) > 1:
            lines.append(f"{folder}: weights {', '.join(block.natives)} are of several dtypes")
    if lines:
        raise BadInput(*lines)


def read(stored: Stored, name: str) -> Tensor:
    with safe_open(stored.path, "pt") as shard:
        return shard.get_tensor(name)


def check_tied(found: dict[str, Stored], embedding: str, head: str) -> None:
    """A head that is saved although it is tied must hold the same numbers: the original would use one of the two."""
    if not torch.equal(read(found[embedding], embedding), read(found[head], head)):
        raise BadInput(f"{found[head].path}: weight {head} is not {embedding}, but 'tie_word_embeddings' is true")


def by_shard(layout: list[Block], found: dict[str, Stored], to: str) -> dict[str, list[Block]]:
    """Blocks by the name of the file to write: that of the file their first source is in."""
    shards = defaultdict(list)
    for block in layout:
        shards[found[block.sources(to)[0]].path.name].append(block)
    return dict(sorted(shards.items()))


def converted(shard: list[Block], found: dict[str, Stored], to: str) -> Iterator[tuple[str, Tensor]]:
    """Name and numbers of every weight that a shard gets."""
    for block in shard:
        weights = [read(found[name], name) for name in block.sources(to)]
        made = block.split(weights[0]) if to == "native" else [block.fuse(weights)]
        for name, weight in zip(block.targets(to), made, strict=True):
            # The clone of a part lets go of the fused weight, and may be saved beside the other parts.
            yield name, weight.clone(memory_format=torch.contiguous_format)


def is_finished(target: Path, shard: list[Block], found: dict[str, Stored], to: str) -> bool:
    """Whether this very shard is there: by its content, since two trainings give shards of the same names and sizes."""
    try:
        with safe_open(target, "pt") as there:
            if set(there.keys()) != {name for block in shard for name in block.targets(to)}:
                return False
            return all(same_bytes(there.get_tensor(name), weight) for name, weight in converted(shard, found, to))
    except (SafetensorError, OSError):
        return False


def same_bytes(one: Tensor, other: Tensor) -> bool:
    same = (one.dtype, one.shape) == (other.dtype, other.shape)
    return same and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def write_shard(target: Path, weights: dict[str, Tensor]) -> None:
    temporary = target.parent / UNFINISHED / target.name
    temporary.parent.mkdir(exist_ok=True)
    try:
        save_file(weights, temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        raise Fault(f"{temporary}: cannot be written ({error})") from None
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)  # safetensors makes it private
    os.replace(temporary, target)


def write_weights(output: Path, shards: dict[str, list[Block]], found: dict[str, Stored], to: str) -> None:
    """Write every shard that is not finished, and the index."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").unlink(missing_ok=True)  # a half-made folder cannot be loaded
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    for count, (name, shard) in enumerate(shards.items(), 1):
        finished = is_finished(output / name, shard, found, to)
        if not finished:
            write_shard(output / name, dict(converted(shard, found, to)))
        print(f"shard {count} of {len(shards)}: {name} {'was there' if finished else 'written'}", flush=True)
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    index = {target: name for name, shard in shards.items() for block in shard for target in block.targets(to)}
    (output / INDEX).unlink(missing_ok=True)
    if len(shards) > 1:
        total = sum(tensor_bytes(output / name) for name in shards)
        write_json(output / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))})


def tensor_bytes(path: Path) -> int:
    with open(path, "rb") as file:  # the header's length in 8 bytes, the header, the tensors
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


def check_output(source: Path, output: Path, shards: dict[str, list[Block]]) -> None:
    if output.resolve() == source.resolve():
        raise BadInput(f"--output_dir: {output} is the input folder")
    # A loader without an index reads every *.safetensors it sees.
    if strange := sorted({path.name for path in output.glob("*.safetensors")} - shards.keys()):
        raise BadInput(*(f"{output / name}: is no shard of this checkpoint; remove it" for name in strange))


# ---------------------------------------------------------------- a whole folder


def convert_weights(source: Path, output: Path, config: InternVLConfig, to: str) -> None:
    """Check everything, then write the weights."""
    found, layout, shapes = stored_weights(source), blocks(config), native_shapes(config)
    head = next(block for block in layout if block.natives == (HEAD,))
    [saved] = head.sources(to)
    if config.tie_word_embeddings and saved not in found:
        layout.remove(head)
        del shapes[HEAD]
    check_weights(source, found, layout, shapes, to)
    if config.tie_word_embeddings and saved in found:
        embedding = next(block for block in layout if block.natives == (EMBEDDING,))
        [embedded] = embedding.sources(to)
        check_tied(found, embedded, saved)
    shards = by_shard(layout, found, to)
    check_output(source, output, shards)
    write_weights(output, shards, found, to)


def to_native(source: Path, output: Path) -> None:
    original = read_object(source / "config.json")
    with cli.refusing(f"{source}: a field of its small files is wrong"):
        family = original_family(original, source / "config.json")
        processor = native_processor(source, family, original)
        config = native_config(original, family, processor)
    if len(processor.tokenizer) > config.text_config.vocab_size:
        raise BadInput(f"{source}: {len(processor.tokenizer)} tokens, but 'llm_config.vocab_size' is smaller")
    convert_weights(source, output, config, "native")
    processor.save_pretrained(output)
    write_json(output / "generation_config.json", native_generation(source, config, processor.tokenizer))
    keep_small_files(source, output)
    write_atomic(output / "config.json", config.to_json_string())


def native_generation(source: Path, config: InternVLConfig, tokenizer: Any) -> dict[str, Any]:
    """The original's settings; a turn's end stops, and so does all that stopped the original."""
    settings, text = optional_json(source / "generation_config.json"), config.text_config
    stops = [tokenizer.convert_tokens_to_ids(TURN_END)]
    for stop in (settings.get("eos_token_id"), text.eos_token_id):
        stops += stop if isinstance(stop, list) else [stop]
    pads = (settings.get("pad_token_id"), tokenizer.pad_token_id)
    settings["eos_token_id"] = [stop for stop in dict.fromkeys(stops) if stop is not None]
    settings["pad_token_id"] = next((pad for pad in pads if pad is not None), None)
    return {
        name: value for name, value in settings.items() if name not in ("_from_model_config", "transformers_version")
    }


def to_original(source: Path, output: Path) -> None:
    native = read_object(source / "config.json")
    if native.get("model_type") != "internvl":
        raise BadInput(f"{source / 'config.json'}: field 'model_type': {native.get('model_type')!r} is not 'internvl'")
    config = load_config(str(source))
    family = next((old for old, new in FAMILIES.items() if new == config.text_config.model_type), None)
    if family is None:
        raise BadInput(f"{source / 'config.json'}: text model {config.text_config.model_type!r} has no original format")
    if family == "internlm2" and not (source / KEPT / "tokenizer.model").exists():
        line = f"{source / KEPT}: no such folder; copy that of the native checkpoint from which this one was trained"
        raise BadInput(line)
    images = load_processor(str(source)).image_processor
    convert_weights(source, output, config, "original")
    write_original_tokenizer(source, output, family)
    if not (source / KEPT / "preprocessor_config.json").exists():
        write_json(output / "preprocessor_config.json", original_preprocessor(images))
    if not (source / KEPT / "generation_config.json").exists():
        write_json(output / "generation_config.json", optional_json(source / "generation_config.json"))
    write_json(output / "config.json", original_config(config, images, optional_json(source / KEPT / "config.json")))
    print(f"{output}: take the *.py files from the published folder of this model")


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--input_dir", type=Path, required=True, help="checkpoint to read")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the other format")
    parser.add_argument("--to", choices=("native", "original"), default="native", help="the format to write")
    args = parser.parse_args()
    logging.set_verbosity_error()
    {"native": to_native, "original": to_original}[args.to](args.input_dir, args.output_dir)
    print(f"{args.output_dir}: {args.to} checkpoint")


if __name__ == "__main__":
    cli.run(main)
