"""Shared pieces: seed records with real pictures, the desk tokenizer, a tiny untrained InternVL."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent


def run_script(*args, **kwargs):
    """Run one of the project's scripts as a user does; returns the finished process with text output."""
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **kwargs)


@pytest.fixture
def seed_file(tmp_path):
    """Three problems: one picture, two pictures, none."""
    for index in range(2):
        Image.new("RGB", (20, 30), (index, 0, 0)).save(tmp_path / f"p{index}.png")
    records = [
        {"id": "a", "question": "What is x?", "correct_answer": "75", "image_path": "p0.png", "subject": "geometry"},
        {"id": 2, "question": "Which one?", "correct_answer": 3.5, "image_path": ["p0.png", "p1.png"]},
        {"id": "c", "question": "What is 1 + 1?", "correct_answer": "2"},
    ]
    path = tmp_path / "seed.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """Folder of an untrained desk checkpoint (config, weights, tokenizer, processor)."""
    from make_model import make_model, make_processor, make_tokenizer

    from mm_prm.prompts import policy_prompt

    texts = [
        policy_prompt(f"What is {n} + {n}?") + f"<step>{n} + {n} = {2 * n}</step><answer>9</answer>" for n in range(50)
    ]
    folder = tmp_path_factory.mktemp("desk")
    tokenizer = make_tokenizer(texts)
    make_processor(tokenizer).save_pretrained(folder)
    make_model(tokenizer, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(desk):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(desk)
