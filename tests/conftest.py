"""Shared pieces: seed records with real pictures, the desk tokenizer, a tiny untrained InternVL."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import json
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
from PIL import Image

import mm_prm.judge  # noqa: F401  (imported here, a fork has it)

ROOT = Path(__file__).parent.parent


def run_script(*args, **kwargs):
    """Run one of the project's scripts as a user does; returns the finished process with text output."""
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **kwargs)


def run_forked(script, *args, before=None):
    """The same in a fork of this process, where openai and the like are imported already: 0.1 s in place of 1.5 s."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                for stream, number in ((out, 1), (err, 2)):
                    os.dup2(stream.fileno(), number)
                sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
                os.chdir(ROOT)
                sys.argv = [str(script), *map(str, args)]
                if before:
                    before()
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [(stream.seek(0), stream.read())[1] for stream in (out, err)]
    return subprocess.CompletedProcess(script, code, *texts)


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
