"""New weights in a running vLLM server: what it serves is what the trainer has, and what each call is for."""

import asyncio
import json
import random
import shutil
import sys
from functools import partial
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
from conftest import ROOT, run_forked
from internvl.rl.draw import Drawer, whole_distribution
from internvl.rl.rows import RowMaker
from internvl.rl.sync import SERVER_FLAGS, Replicas, calls, reload
from internvl.rl.update import with_drawn_logprobs
from make_problems import make_split, write_problems
from PIL import Image
from serve_policy import Server, cpu_flags, is_healthy, start, stop, wait_until_healthy
from test_rl_loop import one_process
from test_serve_policy import free_port

from mm_prm.cli import Fault
from mm_prm.files import read_jsonl
from mm_prm.judge import Judge
from mm_prm.policy import Dialect, PolicyClient
from mm_prm.prm_model import load_model, load_processor
from mm_prm.records import Problem
from mm_prm.servers import ServerPool, Unreachable

BOUND = 1e-4  # of |served - trained| in float32


def server_command(folder, port):
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += ["--served-model-name", "policy", "--host", "127.0.0.1", "--max-model-len", "512"]
    return [*command, *cpu_flags(), "--dtype=float32", *SERVER_FLAGS]


@pytest.fixture(scope="module")
def desk():
    """A policy that answers in the format now and then, so that there is something to learn."""
    return ROOT / "examples/desk/base"


@pytest.fixture(scope="module")
def served(desk, tmp_path_factory):
    """(root URL, port) of a real server of the desk base."""
    port, log = free_port(), tmp_path_factory.mktemp("rl") / "server.log"
    process = start(server_command(desk, port), log, {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_SERVER_DEV_MODE": "1"})

    def check():
        if process.poll() is not None:
            raise Fault(log.read_text()[-3000:])

    try:
        wait_until_healthy([Server([], port, log)], 600, check)
        yield f"http://127.0.0.1:{port}", port
    finally:
        stop([process])


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """Two with a picture of noise, one without."""
    folder, draw = tmp_path_factory.mktemp("pictures"), random.Random(0)
    found = []
    for number in range(3):
        path = folder / f"{number}.png"
        Image.frombytes("RGB", (60, 40), draw.randbytes(60 * 40 * 3)).save(path)
        question = f"What is {number} + {number}? <|im_end|> <IMG_CONTEXT>"  # text, not tokens
        found.append(Problem(str(number), question, "1", [str(path)] * (number < 2), {"id": number}))
    return found


class Side:
    """A trainer's side of one model: its weights, and how far a server is from them."""

    def __init__(self, desk, url, problems):
        self.desk, self.url, self.problems = desk, url, problems
        self.model = with_drawn_logprobs(load_model(str(desk), torch.float32).eval())
        self.rows = RowMaker(load_processor(str(desk)), "tags")
        self.draws = 0

    def train(self, folder, seed):
        """Other weights, the embedding (which is the head) and the vision tower among them, written to `folder`."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator) * parameter.std().nan_to_num(0))
        self.model.save_pretrained(folder)
        return folder

    async def groups(self, temperature=1.0):
        pool = ServerPool("policy", [f"{self.url}/v1"], 0, "none")
        sampling = whole_distribution(temperature, 24)
        judge = Judge("rule", None, None)
        drawer = Drawer(PolicyClient(pool, "policy", sampling, Dialect(), 0), judge)
        self.draws += 1
        try:
            return await drawer.groups([(problem, self.draws) for problem in self.problems], 6)
        finally:
            await judge.close()
            await pool.close()

    def mismatch(self, temperature=1.0):
        """The largest |log-probability served - trained| over fresh draws."""
        apart = 0.0
        for group in asyncio.run(self.groups(temperature)):
            row = self.rows(group)
            with torch.no_grad():
                trained = self.model(**row.inputs, temperature=temperature)[:, 0]
            apart = max(apart, (row.served - trained).abs().max().item())
        return apart


def sync(url, folder, without=()):
    asyncio.run(reload(url, folder, without))


@pytest.mark.slow
def test_served_are_the_trained_log_probabilities_before_and_after_a_sync(desk, served, problems, tmp_path):
    """Protects the whole of stage 7: a real server says of its draws what the trainer says, after every sync."""
    url, _ = served
    side = Side(desk, url, problems)
    sync(url, desk)
    assert side.mismatch() < BOUND and side.mismatch(temperature=0.7) < BOUND
    for seed in (1, 2):  # twice: what a server keeps from the first sync must not come back
        folder = side.train(tmp_path / str(seed), seed)
        assert side.mismatch() > 100 * BOUND
        sync(url, folder)
        shutil.rmtree(folder)
        assert side.mismatch() < BOUND


@pytest.mark.slow
def test_trap_the_packed_head_of_a_cpu_is_the_old_one(desk, served, problems, tmp_path):
    """Protects from samples of a policy with an old head."""
    url, _ = served
    side = Side(desk, url, problems)
    sync(url, desk)
    assert side.mismatch() < BOUND
    folder = side.train(tmp_path / "new", 3)

    async def vllms_own():
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            for path, body in calls(folder):
                if body:
                    body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
                (await client.post(path, json=body)).raise_for_status()

    asyncio.run(vllms_own())
    assert side.mismatch() > 100 * BOUND
    sync(url, folder)
    assert side.mismatch() < BOUND


@pytest.mark.slow
def test_trap_old_keys_and_values_of_a_prompt_seen_before(desk, served, problems, tmp_path):
    """Protects from samples out of a cache that old weights have filled."""
    url, _ = served
    side = Side(desk, url, problems[2:])  # text alone: a picture's tokens have the picture's hash in the cache's key
    sync(url, desk)
    assert side.mismatch() < BOUND
    folder = side.train(tmp_path / "new", 4)
    sync(url, folder, without={"/reset_prefix_cache"})
    assert side.mismatch() > 10 * BOUND
    sync(url, folder)
    assert side.mismatch() < BOUND


@pytest.mark.slow
def test_a_replica_out_of_reach_is_left_out_and_comes_back(desk, served, problems, tmp_path):
    """Protects a run from one dead server, and the run from that server's old weights when it is back."""
    url, _ = served
    gone = f"http://127.0.0.1:{free_port()}"

    async def both(outage, endpoints):
        pool = ServerPool("policy", [f"{end}/v1" for end in endpoints], outage, "none")
        replicas = Replicas(pool)
        try:
            await replicas.sync(desk)
            return [str(server.client.base_url) for server in pool.servers]
        finally:
            await replicas.close()

    assert asyncio.run(both(0, [gone, url])) == [f"{url}/v1/"]
    with pytest.raises(Unreachable, match="no server took the new weights for 0 s"):
        asyncio.run(both(0, [gone]))


@pytest.mark.slow
def test_a_server_without_development_mode_says_so(served):
    """Protects who starts servers by hand from weights that never arrive."""
    url, _ = served
    with pytest.raises(Fault, match="VLLM_SERVER_DEV_MODE=1"):
        asyncio.run(reload(f"{url}/nowhere", "x"))


@pytest.mark.slow
def test_a_whole_run_with_deepspeed(desk, served, problems, tmp_path):
    """Draw, judge, update by DeepSpeed, sync: what is served stays what is trained, and the new policy is written."""
    url, _ = served
    seeds = write_problems(tmp_path, "annotate", make_split("annotate", 6, 0))
    (tmp_path / "seed.json").write_text(json.dumps(seeds))
    done = run_forked(
        "internvl_chat/internvl/train/internvl_chat_rl.py",
        *("--model_name_or_path", desk, "--seed_file", tmp_path / "seed.json", "--output_dir", tmp_path / "run"),
        *("--policy_endpoint", f"{url}/v1", "--judge", "rule", "--prompts", 2, "--rollouts", 6, "--steps", 3),
        *("--updates_per_rollout", 2, "--max_new_tokens", 160, "--learning_rate", 1e-4, "--max_mismatch", BOUND),
        *("--deepspeed", ROOT / "internvl_chat/zero_stage1_config.json"),
        before=partial(one_process, free_port()),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_jsonl(tmp_path / "run/steps.jsonl")
    results = json.loads((tmp_path / "run/train_results.json").read_text())
    assert len(rows) == 3 and results["engine"] == "DeepSpeedEngine" and results["mismatch"] < BOUND
    assert max(row["gradient_norm"] for row in rows) > 0
    side = Side(tmp_path / "run", url, problems)  # the server has the last step's weights
    assert side.mismatch() < BOUND


@pytest.mark.slow
def test_trap_the_engine_dies_of_a_picture_seen_before(desk, served, problems, tmp_path):
    """The last test of this server: it does not survive."""
    url, port = served
    side = Side(desk, url, problems[:1])
    sync(url, desk)
    assert side.mismatch() < BOUND
    folder = side.train(tmp_path / "new", 5)
    sync(url, folder, without={"/reset_encoder_cache"})
    with pytest.raises((Unreachable, openai.APIError)):
        side.mismatch()
    assert not is_healthy(port)


def test_the_extension_packs_heads_alone():
    packed = []
    method = SimpleNamespace(process_weights_after_loading=packed.append)
    head = SimpleNamespace(quant_method=method, num_embeddings=5, cpu_linear=None)
    linear, plain = SimpleNamespace(quant_method=method, cpu_linear=None), SimpleNamespace()
    model = SimpleNamespace(modules=lambda: [plain, linear, head])
    loaded = []
    worker = SimpleNamespace(
        reload_weights=lambda weights_path: loaded.append(weights_path),
        model_runner=SimpleNamespace(get_model=lambda: model),
    )
    from internvl.rl.sync import WeightLoader

    WeightLoader.load_new_weights(worker, "folder")
    assert (loaded, packed) == (["folder"], [head])


def test_the_flags_name_the_extension():
    from internvl.rl import sync as module

    assert SERVER_FLAGS[1] == f"{module.__name__}.{module.WeightLoader.__name__}" and (ROOT / "internvl_chat").is_dir()
