"""Shared pieces: seed records with real pictures, the desk tokenizer, a tiny untrained InternVL."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import json
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import InternVLForConditionalGeneration

import mm_prm.judge  # noqa: F401  (imported here, a fork has it)

# A fork has no OpenMP threads: it would wait for its parent's for ever.
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items):
    """The longest first: the other tests run beside it."""
    items.sort(key=lambda item: item.path.name != "test_desk.py")


class Forked:
    """A script in a fork of this process, where openai and torch are imported already: 0.1 s, not 1.5 to 15."""

    def __init__(self, script, *args, before=None):
        self.script, self.streams = script, (tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+"))  # noqa: SIM115
        sys.stdout.flush()
        self.child = os.fork()
        if self.child == 0:
            code = 99
            try:
                for stream, number in zip(self.streams, (1, 2), strict=True):
                    os.dup2(stream.fileno(), number)
                sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
                os.chdir(ROOT)
                sys.argv = [str(script), *map(str, args)]
                forget_processes()
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

    code = None

    def poll(self, flags=os.WNOHANG):
        """The exit code, None while it runs; minus the signal's number where that ended it."""
        if self.code is None:
            child, status = os.waitpid(self.child, flags)
            self.code = os.waitstatus_to_exitcode(status) if child else None
        return self.code

    def kill(self, signal):
        os.kill(self.child, signal)

    def wait(self):
        self.poll(0)
        texts = [(stream.seek(0), stream.read(), stream.close())[1] for stream in self.streams]
        return subprocess.CompletedProcess(self.script, self.code, *texts)


def run_forked(script, *args, before=None):
    """Run one of the project's scripts in a fork; returns the finished process with text output."""
    return Forked(script, *args, before=before).wait()


def forget_processes():
    """In a fork: accelerate looks anew whether it is one process of several, whatever an earlier test told it."""
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


def deepspeed_on_cpu():
    """In a fork, before its script: DeepSpeed without its collectives in shared memory. To compile them takes a minute
    on a fresh machine, and one process has nobody to share with."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    if "--deepspeed" in sys.argv:
        import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # the package's name `torch` is PyTorch's


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
    """Folder of an untrained checkpoint like the desk's (config, weights, tokenizer, processor), half as wide."""
    from make_model import make_model, make_processor, make_tokenizer

    from mm_prm.prompts import policy_prompt

    texts = [
        policy_prompt(f"What is {n} + {n}?") + f"<step>{n} + {n} = {2 * n}</step><answer>9</answer>" for n in range(50)
    ]
    folder = tmp_path_factory.mktemp("desk")
    tokenizer = make_tokenizer(texts)
    make_processor(tokenizer).save_pretrained(folder)
    desk = make_model(tokenizer, seed=0)
    text, vision = desk.config.text_config, desk.config.vision_config
    text.num_hidden_layers, text.layer_types = 2, ["full_attention"] * 2
    text.hidden_size, text.intermediate_size, text.num_attention_heads, text.num_key_value_heads = 96, 192, 3, 3
    vision.hidden_size, vision.intermediate_size, vision.num_attention_heads = 64, 128, 2
    torch.manual_seed(0)
    small = InternVLForConditionalGeneration(desk.config)
    small.generation_config = desk.generation_config
    small.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(desk):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(desk)


@pytest.fixture
def prm_folder(desk, tokenizer, tmp_path):
    """The desk checkpoint with Yes and No rows that spread the scores: untrained ones put all near 0.5."""
    from safetensors.torch import load_file, save_file

    from mm_prm.prm_model import yes_no_ids

    name = "language_model.model.embed_tokens.weight"  # also the LM head: the desk model ties them
    folder = shutil.copytree(desk, tmp_path / "prm")
    weights = load_file(folder / "model.safetensors")
    rows = 0.5 * torch.randn(2, weights[name].shape[1], generator=torch.Generator().manual_seed(0))
    weights[name][yes_no_ids(tokenizer)] = rows
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium by its driver; with a fresh profile and nothing sent anywhere."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser test needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("the browser test needs chromium and chromedriver (Debian: apt-get install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    names = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for name in f"{names} disable-component-update disable-sync user-data-dir={tmp_path / 'profile'}".split():
        options.add_argument(f"--{name}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()
