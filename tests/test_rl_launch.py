"""The scripts of stage 7: the exact commands they start, with stand-ins for Python and the GPUs; what they refuse."""

import json
import re
import shlex
import subprocess

import pytest
from conftest import ROOT
from internvl.rl.sync import SERVER_FLAGS

CHAT = ROOT / "internvl_chat"
SCRIPTS = CHAT / "shell" / "internvl2.5" / "rl"


@pytest.fixture
def launch(tmp_path):
    """Run a script in a folder with checkpoints and problems; python prints its words, and serves if it is to."""
    python = """for word; do echo "> $word"; done
echo "visible ${CUDA_VISIBLE_DEVICES-all} dev ${VLLM_SERVER_DEV_MODE-}"
case "$1" in */serve_policy.py)
  while [ "$1" != -- ]; do shift; done; shift; export POLICY_ENDPOINT=http://h:1/v1; exec "$@" ;;
esac"""
    for name, body in (("python", python), ("nvidia-smi", 'printf "$LISTED"; test "$LISTED"')):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for model in ("work_dirs/mm_policy", "pretrained/InternVL2_5-8B-native", "pretrained/InternVL2_5-38B-native"):
        (tmp_path / model).mkdir(parents=True)
        (tmp_path / model / "config.json").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/seed.json").write_text("[]")

    def run(name, *flags, gpus=8, **env):
        listed = "".join(f"GPU {number}: NVIDIA H100 (UUID: GPU-{number})\\n" for number in range(gpus))
        env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "LISTED": listed, **{key: str(env[key]) for key in env}}
        script = SCRIPTS / f"internvl2_5_{name}.sh"
        done = subprocess.run(["sh", script, *flags], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
        # One list of words for every python that was started, and what it saw of the GPUs.
        found = re.split(r"^(visible .*)\n", re.sub(r"^no GPU found.*\n", "", done.stdout, flags=re.M), flags=re.M)
        done.calls = [re.findall(r"^> (.*)$", part, re.M) for part in found[0:-1:2]]
        done.saw = found[1::2]
        done.calls = [words for words in done.calls if "-Ic" not in words]
        return done

    return run


@pytest.mark.parametrize(
    ("name", "model", "algorithm", "rate", "updates", "frozen"),
    [
        ("8b_cpgd", "work_dirs/mm_policy", "cpgd", "1e-6", "8", "True"),
        ("8b_mm_eureka", "pretrained/InternVL2_5-8B-native", "rloo", "3e-7", "16", "False"),
    ],
)
def test_a_script_serves_and_trains_with_nothing_else_set(launch, name, model, algorithm, rate, updates, frozen):
    done = launch(name)
    serve, train = done.calls
    assert serve[:3] == [f"{ROOT}/data_pipeline/serve_policy.py", "--model", model], done.stderr
    text = shlex.join(serve)
    assert (
        shlex.join(SERVER_FLAGS) in text and "--gpu-memory-utilization 0.3" in text and "--max-model-len 8192" in text
    )
    torchrun = "-m torch.distributed.run --nnodes 1 --node_rank 0 --nproc_per_node 8 --master_addr 127.0.0.1"
    assert shlex.join(train).startswith(f"{torchrun} --master_port 29500 {CHAT}/internvl/train/internvl_chat_rl.py")
    text = shlex.join(train)
    for words in (
        f"--model_name_or_path {model} --seed_file data/seed.json",
        f"--deepspeed {CHAT}/zero_stage1_config.json --bf16 True",
        f"--algorithm {algorithm} --learning_rate {rate}",
        f"--prompts 128 --updates_per_rollout {updates}",
        f"--freeze_backbone {frozen}",
    ):
        assert words in text
    assert done.saw == ["visible all dev 1", "visible all dev 1"]


def test_servers_of_ones_own_and_several_nodes(launch):
    more = {"NNODES": 2, "NODE_RANK": 1, "MASTER_ADDR": "host0"}
    done = launch("38b_mm_eureka", POLICY_ENDPOINT="http://a/v1,http://b/v1", **more)
    [train] = done.calls
    text = shlex.join(train)
    assert "--nnodes 2 --node_rank 1 --nproc_per_node 8 --master_addr host0" in text and "zero_stage3_config" in text
    assert "--format_weight 1" in text and "--drop_solved" in text
    done = launch("38b_mm_eureka", **more)
    assert done.returncode == 2 and "name all of them in POLICY_ENDPOINT" in done.stderr and not done.calls


def test_gpus_that_only_serve(launch):
    done = launch("8b_cpgd", GPUS=6, CUDA_VISIBLE_DEVICES="0,1,2,3,4,5", ROLLOUT_GPUS="6,7", ROLLOUT_TP=2)
    assert done.saw == ["visible 6,7 dev 1", "visible 0,1,2,3,4,5 dev 1"], done.stderr
    assert "--tensor-parallel-size 2" in shlex.join(done.calls[0]) and "--nproc_per_node 6" in shlex.join(done.calls[1])
    done = launch("8b_cpgd", ROLLOUT_GPUS="6,7")
    assert done.returncode != 0 and "the GPUs that train, beside ROLLOUT_GPUS=6,7" in done.stderr


def test_without_a_gpu_the_same_script_runs_on_the_cpu(launch):
    limits = json.dumps({"image": 1}, separators=(",", ":"))
    done = launch("8b_cpgd", "--steps", "3", gpus=0, CONTEXT=512, VLLM_ARGS=f"--limit-mm-per-prompt {limits}")
    serve, train = done.calls
    assert "--gpu-memory-utilization" not in serve and limits in serve and "512" in serve
    assert train[0] == f"{CHAT}/internvl/train/internvl_chat_rl.py" and "--deepspeed" not in train
    assert "--bf16" not in train and train[-2:] == ["--steps", "3"] and "--dtype float32" in shlex.join(serve)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"SEED_FILE": "none"}, "SEED_FILE=none: no such file of problems"),
        ({"MODEL_PATH": "none"}, "MODEL_PATH=none: no checkpoint there (config.json is missing)"),
        ({"GPUS": "9"}, "GPUS=9: this machine lets us use 8"),
        ({"ZERO_STAGE": "2"}, "ZERO_STAGE=2: must be 1 or 3"),
    ],
)
def test_what_cannot_work_is_one_line(launch, env, message):
    done = launch("8b_cpgd", **env)
    assert (done.returncode, done.stderr, done.calls) == (2, f"error: {message}\n", [])
