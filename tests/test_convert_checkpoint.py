"""Original <-> native checkpoints: small original folders with random weights, and the original's mathematics."""

import io
import json
import os
import random
import re
import shutil
import signal
import unicodedata

import pytest
import regex
import sentencepiece
import torch
from conftest import ROOT, run_forked
from convert_checkpoint import to_native, to_original
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import AutoProcessor, AutoTokenizer, GenerationConfig, InternVLForConditionalGeneration

from mm_prm.cli import BadInput
from mm_prm.prm_format import Encoder
from mm_prm.prm_model import image_tiles
from mm_prm.prompts import SYSTEM_MESSAGE

SCRIPT = ROOT / "internvl_chat/tools/convert_checkpoint.py"
SPECIAL = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<prm>"]
TEXTS = [f"Solve x + {n} = {n * n} step by step, aaaa aaa abab banana." for n in range(60)]
TEXTS += [
    "The area is \\frac{1}{2}ab \\sin C.  三角形的面积是多少？\n\tdef f(x):\n    return x ** 2\n",
    "Привет, naïve café 😀",
] * 20
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VISION |= {"image_size": 56, "patch_size": 14, "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
VISION |= {"model_type": "intern_vit_6b", "architectures": ["InternVisionModel"], "drop_path_rate": 0.1}
VISION |= {"use_flash_attn": True, "initializer_range": 0.02, "initializer_factor": 1.0, "torch_dtype": "float32"}
LLM = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2}
LLM |= {"intermediate_size": 40, "hidden_act": "silu", "max_position_embeddings": 96, "tie_word_embeddings": False}
FAMILIES = {
    "qwen2": (
        {"norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False},
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}
        | {"rope_scaling": None, "sliding_window": 64, "use_sliding_window": False, "max_window_layers": 2},
    ),
    "internlm2": (
        {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True},
        {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "rms_norm_eps": 1e-5, "bias": False}
        | {"rope_theta": 1000000, "rope_scaling": {"factor": 2.0, "type": "dynamic"}, "pad_token_id": 2}
        | {"bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "flash_attention_2"},
    ),
}


# ---------------------------------------------------------------- original folders


def write(path, data):
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2))


def described(tokens):
    entry = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(number): {"content": token, **entry} for token, number in tokens.items()}


def internlm2_tokenizer(folder):
    """As published: turn tokens take the ids of unused pieces, picture tokens follow the pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type="bpe",
        vocab_size=520,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        user_defined_symbols=[f"[UNUSED_TOKEN_{n}]" for n in range(3)],
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    added = {name: pieces.piece_to_id(f"[UNUSED_TOKEN_{n}]") for n, name in enumerate(("<|im_end|>", "<|im_start|>"))}
    added |= {name: pieces.get_piece_size() + n for n, name in enumerate(SPECIAL)}
    write(folder / "added_tokens.json", added)
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    config = {"tokenizer_class": "InternLM2Tokenizer", "add_bos_token": True, "add_eos_token": False, **named}
    config |= {"auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}}
    config |= {"added_tokens_decoder": described({"<unk>": 0, "<s>": 1, "</s>": 2} | added)}
    write(
        folder / "tokenizer_config.json", config | {"additional_special_tokens": list(added), "model_max_length": 8192}
    )
    write(folder / "special_tokens_map.json", {**named, "additional_special_tokens": list(added)})
    return added


def qwen2_tokenizer(folder):
    """As published: a byte-level BPE in two files, and all added tokens behind it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    trained.model.save(str(folder))
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL]
    added = {name: trained.get_vocab_size() + n for n, name in enumerate(names)}
    write(folder / "added_tokens.json", added)
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config |= {"unk_token": None, "bos_token": None, "add_prefix_space": False, "model_max_length": 8192}
    # <prm> stands in added_tokens.json alone
    write(
        folder / "tokenizer_config.json", config | {"added_tokens_decoder": described(dict(list(added.items())[:-1]))}
    )
    return added


def original_shapes(vision, llm):
    wide, deep, side = vision["hidden_size"], vision["intermediate_size"], vision["image_size"] // vision["patch_size"]
    hidden, inner, rows = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    key = llm["num_key_value_heads"] * hidden // llm["num_attention_heads"]
    at = "vision_model.embeddings"
    shapes = {f"{at}.class_embedding": (1, 1, wide), f"{at}.position_embedding": (1, side * side + 1, wide)}
    shapes |= {f"{at}.patch_embedding.weight": (wide, 3, 14, 14), f"{at}.patch_embedding.bias": (wide,)}
    for layer in range(vision["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{layer}"
        shapes |= {f"{at}.attn.qkv.weight": (3 * wide, wide), f"{at}.attn.proj.weight": (wide, wide)}
        shapes |= {f"{at}.attn.proj.bias": (wide,), f"{at}.ls1": (wide,), f"{at}.ls2": (wide,)}
        shapes |= {f"{at}.mlp.fc1.weight": (deep, wide), f"{at}.mlp.fc1.bias": (deep,)}
        shapes |= {f"{at}.mlp.fc2.weight": (wide, deep), f"{at}.mlp.fc2.bias": (wide,)}
        shapes |= {f"{at}.norm{n}.weight": (wide,) for n in (1, 2)}
        if vision["norm_type"] == "layer_norm":
            shapes |= {f"{at}.norm{n}.bias": (wide,) for n in (1, 2)}
        if vision["qkv_bias"]:
            shapes[f"{at}.attn.qkv.bias"] = (3 * wide,)
        if vision["qk_normalization"]:
            shapes |= {f"{at}.attn.{name}_norm.weight": (wide,) for name in "qk"}
    shapes |= {"mlp1.0.weight": (4 * wide,), "mlp1.0.bias": (4 * wide,), "mlp1.1.weight": (hidden, 4 * wide)}
    shapes |= {"mlp1.1.bias": (hidden,), "mlp1.3.weight": (hidden, hidden), "mlp1.3.bias": (hidden,)}
    at = "language_model.model"
    shapes[f"{at}.norm.weight"] = (hidden,)
    if llm["model_type"] == "internlm2":
        shapes |= {f"{at}.tok_embeddings.weight": (rows, hidden), "language_model.output.weight": (rows, hidden)}
        layer_shapes = {"attention.wqkv.weight": (hidden + 2 * key, hidden), "attention.wo.weight": (hidden, hidden)}
        layer_shapes |= {f"feed_forward.w{n}.weight": (inner, hidden) for n in (1, 3)}
        layer_shapes |= {"feed_forward.w2.weight": (hidden, inner)}
        layer_shapes |= {"attention_norm.weight": (hidden,), "ffn_norm.weight": (hidden,)}
    else:
        shapes |= {f"{at}.embed_tokens.weight": (rows, hidden), "language_model.lm_head.weight": (rows, hidden)}
        layer_shapes = {"self_attn.o_proj.weight": (hidden, hidden), "mlp.down_proj.weight": (hidden, inner)}
        for name, width in (("q", hidden), ("k", key), ("v", key)):
            layer_shapes |= {f"self_attn.{name}_proj.weight": (width, hidden), f"self_attn.{name}_proj.bias": (width,)}
        layer_shapes |= {f"mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        layer_shapes |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    for layer in range(llm["num_hidden_layers"]):
        shapes |= {f"{at}.layers.{layer}.{name}": shape for name, shape in layer_shapes.items()}
    return shapes


def save_shards(weights, folder, names):
    """The weights in two shards, and their index."""
    files = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for file, part in zip(files, (names, sorted(weights.keys() - set(names))), strict=True):
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    index = {name: files[name not in names] for name in weights}
    write(folder / "model.safetensors.index.json", {"metadata": {"total_size": 0}, "weight_map": index})


def make_original(folder, family, seed=0):
    folder.mkdir()
    added = {"qwen2": qwen2_tokenizer, "internlm2": internlm2_tokenizer}[family](folder)
    vision, llm = FAMILIES[family]
    vision, llm = VISION | vision, LLM | llm | {"vocab_size": max(added.values()) + 6}  # padded
    config = {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "auto_map": {"AutoConfig": "x.Y"}}
    config |= {"downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 56, "max_dynamic_patch": 12}
    config |= {
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "use_thumbnail": True,
    }
    config |= {
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
    }
    write(folder / "config.json", config | {"vision_config": vision, "llm_config": llm})
    write(folder / "generation_config.json", {"_from_model_config": True, "eos_token_id": [added["<|im_end|>"], 2]})
    (folder / "modeling_internvl_chat.py").write_text("raise RuntimeError('remote code ran')\n")
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in original_shapes(vision, llm).items():
        spread = 0.3 if len(shape) == 1 or "embed" in name else shape[-1] ** -0.5
        weights[name] = torch.randn(shape, generator=draw) * spread + ("norm" in name and name.endswith("weight"))
    save_shards(weights, folder, sorted(weights)[::2])
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    base = tmp_path_factory.mktemp("originals")
    return {family: make_original(base / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def natives(originals, tmp_path_factory):
    base = tmp_path_factory.mktemp("natives")
    for family, folder in originals.items():
        to_native(folder, base / family)
    return {family: base / family for family in originals}


def tensors(folder):
    return {name: w for path in sorted(folder.glob("*.safetensors")) for name, w in load_file(path).items()}


def same_tensors(one, other):
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys()
    assert all(w.dtype == other[name].dtype and torch.equal(w, other[name]) for name, w in one.items())


# ---------------------------------------------------------------- the original's mathematics


def rms_norm(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def vision_features(weights, config, pixels):
    """InternViT's hidden states: one more than it has layers, each [tiles, patches + 1, width]."""
    w = {name.removeprefix("vision_model."): weight for name, weight in weights.items()}
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    x = F.conv2d(pixels, w["embeddings.patch_embedding.weight"], w["embeddings.patch_embedding.bias"], stride=14)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["embeddings.class_embedding"].expand(len(x), -1, -1), x], 1) + w["embeddings.position_embedding"]
    states = [x]
    for layer in range(config["num_hidden_layers"]):
        p = {
            name.split(f"layers.{layer}.")[1]: weight
            for name, weight in w.items()
            if f"encoder.layers.{layer}." in name
        }

        def norm(x, which, p=p):
            if config["norm_type"] == "rms_norm":
                return rms_norm(x, p[f"{which}.weight"], eps)
            return F.layer_norm(x, x.shape[-1:], p[f"{which}.weight"], p[f"{which}.bias"], eps)

        q, k, v = F.linear(norm(x, "norm1"), p["attn.qkv.weight"], p.get("attn.qkv.bias")).chunk(3, -1)
        if config["qk_normalization"]:
            q, k = rms_norm(q, p["attn.q_norm.weight"], eps), rms_norm(k, p["attn.k_norm.weight"], eps)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), p["attn.proj.weight"], p["attn.proj.bias"]) * p["ls1"]
        inner = F.gelu(F.linear(norm(x, "norm2"), p["mlp.fc1.weight"], p["mlp.fc1.bias"]))
        x = x + F.linear(inner, p["mlp.fc2.weight"], p["mlp.fc2.bias"]) * p["ls2"]
        states.append(x)
    return states


def image_embeddings(weights, config, pixels):
    """[tiles x tokens, llm width]. Token (row, column) of a tile is the 2 x 2 patches there, row by row."""
    x = vision_features(weights, config["vision_config"], pixels)[config["select_layer"]][:, 1:]
    side = int(x.shape[1] ** 0.5)
    x = x.view(len(x), side // 2, 2, side // 2, 2, -1)  # tile row y column x width
    x = x.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(0, 2)
    x = F.layer_norm(x, x.shape[-1:], weights["mlp1.0.weight"], weights["mlp1.0.bias"], 1e-5)
    x = F.gelu(F.linear(x, weights["mlp1.1.weight"], weights["mlp1.1.bias"]))
    return F.linear(x, weights["mlp1.3.weight"], weights["mlp1.3.bias"])


def rotate(x, theta):
    """Rotary positions on [heads, tokens, width]: dimension i turns with dimension i + width / 2."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def original_logits(folder, ids, pixels=None):
    """[tokens, vocabulary] of the original implementation, in float32."""
    weights, config = tensors(folder), json.loads((folder / "config.json").read_text())
    llm, at = config["llm_config"], "language_model.model"
    heads, groups = llm["num_attention_heads"], llm["num_key_value_heads"]
    width, eps = llm["hidden_size"] // heads, llm["rms_norm_eps"]
    internlm2 = llm["model_type"] == "internlm2"
    embedding = weights[f"{at}.tok_embeddings.weight" if internlm2 else f"{at}.embed_tokens.weight"]
    x = embedding[ids].clone()
    if pixels is not None:
        context = json.loads((folder / "added_tokens.json").read_text())["<IMG_CONTEXT>"]
        x[torch.tensor(ids) == context] = image_embeddings(weights, config, pixels)
    names = ("attention_norm", "attention.wo", "ffn_norm", *(f"feed_forward.w{n}" for n in (1, 3, 2)))
    if not internlm2:
        names = ("input_layernorm", "self_attn.o_proj", "post_attention_layernorm")
        names += ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    theta = llm["rope_theta"]
    if llm["rope_scaling"]:  # dynamic NTK: the base grows with what is beyond the trained length
        factor, over = llm["rope_scaling"]["factor"], max(1, len(ids) / llm["max_position_embeddings"])
        theta *= (factor * over - (factor - 1)) ** (width / (width - 2))
    for layer in range(llm["num_hidden_layers"]):
        p = {
            name.split(f"{at}.layers.{layer}.")[1]: w for name, w in weights.items() if f"{at}.layers.{layer}." in name
        }
        first, out, second, gate, up, down = (p[f"{name}.weight"] for name in names)
        h = rms_norm(x, first, eps)
        if internlm2:
            fused = F.linear(h, p["attention.wqkv.weight"]).unflatten(-1, (groups, heads // groups + 2, width))
            q, k, v = fused[:, :, :-2].flatten(1, 2), fused[:, :, -2], fused[:, :, -1]  # tokens heads width
        else:
            q, k, v = (
                F.linear(h, p[f"self_attn.{n}_proj.weight"], p[f"self_attn.{n}_proj.bias"]).unflatten(-1, (-1, width))
                for n in "qkv"
            )
        k, v = (part.repeat_interleave(heads // groups, 1).transpose(0, 1) for part in (k, v))
        q, k = rotate(q.transpose(0, 1), theta), rotate(k, theta)
        ahead = torch.ones(len(ids), len(ids)).triu(1).bool()
        mixed = (q @ k.transpose(-1, -2) / width**0.5).masked_fill(ahead, -torch.inf).softmax(-1) @ v
        x = x + F.linear(mixed.transpose(0, 1).flatten(1), out)
        h = rms_norm(x, second, eps)
        x = x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)
    head = weights["language_model.output.weight" if internlm2 else "language_model.lm_head.weight"]
    return F.linear(rms_norm(x, weights[f"{at}.norm.weight"], eps), head)


def native_logits(folder, ids, pixels=None):
    model, report = InternVLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    with torch.no_grad():
        return model(torch.tensor([ids]), pixel_values=pixels).logits[0]


@pytest.mark.parametrize("select_layer", [-1, -2, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_originals(originals, natives, tmp_path, family, select_layer):
    original, native = originals[family], natives[family]
    if select_layer != -1:
        original = shutil.copytree(original, tmp_path / "original")
        config = json.loads((original / "config.json").read_text())
        write(original / "config.json", config | {"select_layer": select_layer})
        native = tmp_path / "native"
        to_native(original, native)
    processor = AutoProcessor.from_pretrained(native)
    encoded = Encoder(processor.tokenizer).prm("Question: What is x?\nProcess: x = 2<prm>\n\nx = 3<prm>", [4 * 3])
    assert len(encoded.input_ids) > LLM["max_position_embeddings"]
    pixels = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    expected = original_logits(original, encoded.input_ids, pixels)
    assert expected.abs().max() > 1  # no comparison of nothing with nothing
    assert (native_logits(native, encoded.input_ids, pixels) - expected).abs().max() < 1e-4


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_from_the_original(originals, natives, tmp_path, family):
    to_original(natives[family], tmp_path / "original")
    same_tensors(originals[family], tmp_path / "original")
    names = {path.name for path in originals[family].iterdir()} - {"modeling_internvl_chat.py"}
    assert {path.name for path in (tmp_path / "original").iterdir()} == names | {"preprocessor_config.json"}
    for name in names - {"config.json", "model.safetensors.index.json"} - {n for n in names if "of-00002" in n}:
        assert (tmp_path / "original" / name).read_bytes() == (originals[family] / name).read_bytes(), name
    config, expected = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "original", originals[family]))
    differs = {name for name in config["llm_config"] if config["llm_config"][name] != expected["llm_config"].get(name)}
    assert differs <= {"initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype"}
    assert config | {"llm_config": expected["llm_config"]} == expected
    to_native(tmp_path / "original", tmp_path / "native")
    same_tensors(natives[family], tmp_path / "native")


def test_round_trip_from_the_native(desk, tmp_path):
    to_original(desk, tmp_path / "original")
    to_native(tmp_path / "original", tmp_path / "native")
    same_tensors(desk, tmp_path / "native")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (desk, tmp_path / "native"))
    assert after == before
    one, other = AutoTokenizer.from_pretrained(desk), AutoTokenizer.from_pretrained(tmp_path / "native")
    text = "<img>What is 7 + 7?<video></img><step>7 + 7 = 14</step><prm>\n"
    assert one(text)["input_ids"] == other(text)["input_ids"]
    assert one.get_vocab() == other.get_vocab()


def test_parts_of_a_fused_weight_in_two_shards(natives, originals, tmp_path):
    native = shutil.copytree(natives["internlm2"], tmp_path / "native")
    weights = tensors(native)
    save_shards(weights, native, sorted(name for name in weights if "q_proj" in name))
    to_original(native, tmp_path / "original")
    same_tensors(originals["internlm2"], tmp_path / "original")
    native_index = json.loads((tmp_path / "original/model.safetensors.index.json").read_text())["weight_map"]
    assert native_index["language_model.model.layers.0.attention.wqkv.weight"] == "model-00001-of-00002.safetensors"


def test_tied_head(originals, tmp_path):
    folder = shutil.copytree(originals["qwen2"], tmp_path / "original")
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", config | {"llm_config": config["llm_config"] | {"tie_word_embeddings": True}})
    with pytest.raises(BadInput, match="weight language_model.lm_head.weight is not language_model.model.embed_tokens"):
        to_native(folder, tmp_path / "native")
    weights = tensors(folder)
    head, embedding = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    save_shards(weights | {head: weights[embedding].clone()}, folder, [embedding])
    to_native(folder, tmp_path / "both")
    del weights[head]
    save_shards(weights, folder, [embedding])
    to_native(folder, tmp_path / "one")
    for name, count in (("both", 1), ("one", 0)):
        assert torch.equal(native_logits(tmp_path / name, [3, 9]), native_logits(tmp_path / "one", [3, 9]))
        to_original(tmp_path / name, tmp_path / f"{name}-original")
        assert (head in tensors(tmp_path / f"{name}-original")) == count
    assert (native_logits(tmp_path / "one", [3, 9]) - original_logits_tied(folder, [3, 9])).abs().max() < 1e-4


def original_logits_tied(folder, ids):
    weights = tensors(folder)
    weights["language_model.lm_head.weight"] = weights["language_model.model.embed_tokens.weight"].clone()
    save_shards(weights, folder, sorted(weights)[::2])
    return original_logits(folder, ids)


def test_dtypes_are_kept(originals, tmp_path):
    folder = shutil.copytree(originals["internlm2"], tmp_path / "original")
    weights = {n: w.to(torch.bfloat16 if "vision" in n else torch.float16) for n, w in tensors(folder).items()}
    save_shards(weights, folder, sorted(weights)[::2])
    to_native(folder, tmp_path / "native")
    assert {w.dtype for n, w in tensors(tmp_path / "native").items() if "vision" in n} == {torch.bfloat16}
    to_original(tmp_path / "native", tmp_path / "back")
    same_tensors(folder, tmp_path / "back")


# ---------------------------------------------------------------- refusing and resuming


def test_wrong_weights_are_all_named_and_nothing_is_written(originals, tmp_path):
    folder = shutil.copytree(originals["internlm2"], tmp_path / "original")
    weights = tensors(folder)
    del weights["mlp1.1.bias"], weights["language_model.model.layers.1.attention.wqkv.weight"]
    weights |= {"language_model.lora_A.weight": torch.zeros(2), "mlp1.0.weight": torch.zeros(5)}
    save_shards(weights, folder, ["mlp1.0.weight"])
    run = run_forked(SCRIPT, "--input_dir", folder, "--output_dir", tmp_path / "native")
    one, two = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    assert run.returncode == 2
    assert run.stderr.splitlines() == [
        f"error: {folder}: weight language_model.model.layers.1.attention.wqkv.weight is missing",
        f"error: {folder}: weight mlp1.1.bias is missing",
        f"error: {two}: weight language_model.lora_A.weight has no place here",
        f"error: {one}: weight mlp1.0.weight is [5], expected [128]",
    ]
    assert not (tmp_path / "native").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "internvl"}, "field 'model_type': 'internvl' is not 'internvl_chat'"),
        ({"ps_version": "v1"}, "field 'ps_version': 'v1' is not 'v2'"),
        ({"llm_config": {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"}}, "'phi3' is not one of"),
        ({"vision_config": 3}, "field 'vision_config' is missing"),
    ],
)
def test_unknown_configs_are_refused(originals, tmp_path, change, message):
    folder = shutil.copytree(originals["qwen2"], tmp_path / "original")
    write(folder / "config.json", json.loads((folder / "config.json").read_text()) | change)
    with pytest.raises(BadInput, match=re.escape(message)):
        to_native(folder, tmp_path / "native")


def die_at_second_shard():
    replace = os.replace
    done = []

    def replace_or_die(source, target):
        if str(target).endswith(".safetensors"):
            done.append(target)
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die


def test_resume_after_kill(originals, natives, tmp_path):
    arguments = (SCRIPT, "--input_dir", originals["qwen2"], "--output_dir", tmp_path)
    assert run_forked(*arguments, before=die_at_second_shard).returncode == -signal.SIGKILL
    first = tmp_path / "model-00001-of-00002.safetensors"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished", first.name]
    written = first.stat()
    run = run_forked(*arguments)
    assert run.returncode == 0, run.stderr
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert "shard 1 of 2: model-00001-of-00002.safetensors was there" in run.stdout
    assert "shard 2 of 2: model-00002-of-00002.safetensors written" in run.stdout
    assert not list(tmp_path.glob(".*"))
    same_tensors(natives["qwen2"], tmp_path)


def test_a_shard_of_another_checkpoint_is_not_taken(originals, natives, tmp_path):
    output = shutil.copytree(natives["qwen2"], tmp_path / "native")
    other = make_original(tmp_path / "other", "qwen2", seed=1)
    to_native(other, output)
    fresh = tmp_path / "fresh"
    to_native(other, fresh)
    same_tensors(output, fresh)
    save_file({"x": torch.zeros(1)}, output / "extra.safetensors")
    with pytest.raises(BadInput, match="extra.safetensors: is no shard of this checkpoint"):
        to_native(other, output)
    with pytest.raises(BadInput, match="is the input folder"):
        to_original(output, output)


# ---------------------------------------------------------------- token ids


def split_added(text, added, encode):
    """The ids of text as the original's slow tokenizers make them: added tokens first, the rest piece by piece."""
    pattern = "|".join(map(re.escape, sorted(added, key=len, reverse=True)))
    parts = re.split(f"({pattern})", text) if added else [text]
    return [number for part in parts if part for number in ([added[part]] if part in added else encode(part))]


def qwen2_encode(folder, text):
    """Byte-level BPE by its two files: merge the pair of lowest rank until none is left."""
    vocab = json.loads((folder / "vocab.json").read_text())
    lines = (folder / "merges.txt").read_text().splitlines()
    ranks = {tuple(line.split(" ")): n for n, line in enumerate(lines) if not line.startswith("#version")}
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = dict(zip(plain, map(chr, plain), strict=True))
    letters |= {byte: chr(256 + n) for n, byte in enumerate(b for b in range(256) if b not in plain)}
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    words += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ids = []
    for word in regex.findall(words, unicodedata.normalize("NFC", text)):
        parts = [letters[byte] for byte in word.encode()]
        while pairs := [
            (ranks[pair], n) for n, pair in enumerate(zip(parts, parts[1:], strict=False)) if pair in ranks
        ]:
            at = min(pairs)[1]
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        ids += [vocab[part] for part in parts]
    return ids


def some_texts(count=400):
    draw = random.Random(0)
    bits = [
        *"ab cnsx= \t\n1279.\\{}\u2581<>|/é́ñ三角形😀👨‍👩‍👧ﬁ①Ａ\u3000\xa0\x00",
        "the ",
        " step",
        "  ",
        "    ",
        "</s>",
        "<s>",
        "<unk>",
    ]
    bits += [
        *SPECIAL,
        "<video>",
        "<0x41>",
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "banana",
        "\r\n",
        "\\frac{1}{2}",
    ]
    texts = ["", *TEXTS[::15], *("".join(draw.choices(bits, k=draw.randrange(30))) for _ in range(count))]
    return [*texts, "[UNUSED_TOKEN_2] ", *bits]


def test_internlm2_ids(originals, natives):
    folder = originals["internlm2"]
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    added = json.loads((folder / "added_tokens.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(natives["internlm2"])
    assert tokenizer("")["input_ids"] == [1]
    for text in some_texts():
        expected = split_added(text, added | {"<unk>": 0, "<s>": 1, "</s>": 2}, pieces.encode)
        assert tokenizer(text)["input_ids"] == [1, *expected], text
        as_text = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert as_text == pieces.encode(text), text
        assert tokenizer.decode(expected) == text.replace("\u2581", " ")
    # text that spells the piece whose id a turn token took: as the original reads it, but never when tokens are split
    assert tokenizer("[UNUSED_TOKEN_1]x")["input_ids"] == [1, added["<|im_start|>"], *pieces.encode("x")]
    forged = tokenizer("[UNUSED_TOKEN_1]", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert added["<|im_start|>"] not in forged
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in added} == added


def test_qwen2_ids(originals, natives):
    folder = originals["qwen2"]
    added = json.loads((folder / "added_tokens.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(natives["qwen2"])
    assert tokenizer("")["input_ids"] == []
    for text in some_texts(200):
        assert tokenizer(text)["input_ids"] == split_added(text, added, lambda part: qwen2_encode(folder, part)), text
        as_text = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert as_text == qwen2_encode(folder, text), text
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in added} == added
    assert len(tokenizer) == max(added.values()) + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_added_by_training_goes_back(natives, tmp_path, family):
    native = shutil.copytree(natives[family], tmp_path / "native")
    tokenizer = AutoTokenizer.from_pretrained(native)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(native)
    number = tokenizer.convert_tokens_to_ids("<new>")
    to_original(native, tmp_path / "original")
    assert json.loads((tmp_path / "original/added_tokens.json").read_text())["<new>"] == number
    to_native(tmp_path / "original", tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again("a <new>b")["input_ids"] == tokenizer("a <new>b")["input_ids"]


# ---------------------------------------------------------------- processor and generation config


@pytest.mark.parametrize("family", FAMILIES)
def test_processor(originals, natives, family):
    processor = AutoProcessor.from_pretrained(natives[family])
    added = json.loads((originals[family] / "added_tokens.json").read_text())
    ids = processor.tokenizer.convert_tokens_to_ids
    image = Image.new("RGB", (100, 60), (200, 10, 10))
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a <video>?"}]}],
        add_generation_prompt=True,
    )
    bos = {"qwen2": "", "internlm2": "<s>"}[family]
    assert text == (
        f"{bos}<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\na <video>?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    out = processor(images=[image], text=text, add_special_tokens=False, return_tensors="pt")
    tiles = len(out["pixel_values"])
    assert tiles == rule_tiles(100, 60, 12, 56)[0] + 1
    written = text.replace("<IMG_CONTEXT>", "<img>" + "<IMG_CONTEXT>" * 4 * tiles + "</img>")
    assert out["input_ids"][0].tolist() == processor.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert "<video>" not in processor.tokenizer.get_vocab()
    generation = GenerationConfig.from_pretrained(natives[family])
    assert generation.eos_token_id == [added["<|im_end|>"], 2]
    assert generation.pad_token_id == ids({"qwen2": "<|endoftext|>", "internlm2": "</s>"}[family])


def rule_tiles(width, height, most, size):
    """InternVL's choice: columns and rows of the nearest ratio; of equals the larger, if the image fills half of it."""
    best, nearest = (1, 1), float("inf")
    for columns, rows in sorted(
        ((c, r) for c in range(1, most + 1) for r in range(1, most // c + 1)), key=lambda g: g[0] * g[1]
    ):
        distance = abs(width / height - columns / rows)
        fills = width * height > 0.5 * size * size * columns * rows
        if distance < nearest or (distance == nearest and fills):
            best, nearest = (columns, rows), distance
    return best[0] * best[1], best


def test_tiles(natives):
    processor = AutoProcessor.from_pretrained(natives["qwen2"])
    assert (processor.image_processor.max_patches, processor.image_processor.use_thumbnail) == (12, True)
    processor.image_processor.max_patches = 6
    draw = random.Random(0)
    for _ in range(100):
        width, height = draw.randrange(20, 400), draw.randrange(20, 400)
        tiles, _ = rule_tiles(width, height, 6, 56)
        assert processor.image_processor.get_number_of_image_patches(height, width, {}) == tiles + (tiles > 1)


def test_tile_pixels(natives, tmp_path):
    processor = AutoProcessor.from_pretrained(natives["qwen2"])
    noise = torch.randint(0, 256, (6, 9, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    paths, expected = [], []
    for number, size in enumerate([(150, 100), (56, 56), (70, 230)]):
        image = Image.fromarray(noise.numpy()).resize(size, Image.BILINEAR)
        image.save(tmp_path / f"{number}.png")
        paths.append(str(tmp_path / f"{number}.png"))
        count, (columns, rows) = rule_tiles(*size, 12, 56)
        large = image.resize((56 * columns, 56 * rows), Image.BICUBIC)
        boxes = [(56 * c, 56 * r, 56 * c + 56, 56 * r + 56) for r in range(rows) for c in range(columns)]
        tiles = [large.crop(box) for box in boxes] + [image.resize((56, 56), Image.BICUBIC)] * (count > 1)
        expected.append(tiles)
    pixels, tokens = image_tiles(processor, paths)
    assert tokens == [4 * len(tiles) for tiles in expected]
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for tile, image in zip(pixels, [tile for tiles in expected for tile in tiles], strict=True):
        raw = (tile * std + mean) * 255
        reference = torch.tensor(list(image.getdata())).view(56, 56, 3).permute(2, 0, 1)
        assert (raw - reference).abs().max() < 2.01  # grey levels of 256: both round twice
        assert (raw - reference).abs().mean() < 0.2
    assert image_tiles(processor, []) == (None, [])
