"""The fine-tune scripts: the exact commands they start, with stand-ins for Python and the GPUs; what they refuse."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

CHAT = ROOT / "internvl_chat"
SCRIPTS = CHAT / "shell" / "internvl2.5" / "2nd_finetune"


@pytest.fixture
def launch(tmp_path):
    """Run a script in a folder with checkpoints, on a machine with `gpus` GPUs; python prints its words."""
    for name, body in (
        ("python", 'for word; do echo "> $word"; done'),
        ("nvidia-smi", 'printf "$LISTED"; test "$LISTED"'),
    ):
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for model in ("work_dirs/mm_policy", "pretrained/InternVL2_5-8B-native", "pretrained/InternVL2_5-1B-native"):
        (tmp_path / model).mkdir(parents=True)
        (tmp_path / model / "config.json").touch()

    def run(name, *flags, gpus=8, **env):
        listed = "".join(f"GPU {number}: NVIDIA H100 (UUID: GPU-{number})\\n" for number in range(gpus))
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        env = {"PATH": path, "LISTED": listed, **{key: str(env[key]) for key in env}}
        script = SCRIPTS / f"internvl2_5_{name}.sh"
        done = subprocess.run(["sh", script, *flags], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30)
        done.said, done.words = [], []
        for line in done.stdout.splitlines():
            (done.words if line.startswith("> ") else done.said).append(line.removeprefix("> "))
        return done

    return run


def torchrun(gpus=8, nodes=1, rank=0, address="127.0.0.1", port=29500):
    where = f"--node_rank {rank} --nproc_per_node {gpus} --master_addr {address} --master_port {port}"
    return f"-m torch.distributed.run --nnodes {nodes} {where}".split()


def finetune(model, output, batch, accumulation, recipe, meta=CHAT / "shell/data/prm.json", stage=1):
    zero = f"--deepspeed {CHAT}/zero_stage{stage}_config.json --dataloader_num_workers 4" if stage else ""
    return f"""{CHAT}/internvl/train/internvl_chat_finetune.py
        --model_name_or_path {model} --meta_path {meta} --output_dir {output}
        --freeze_backbone True --dynamic_image_size True --max_dynamic_patch 6 --use_thumbnail True
        --max_seq_length 8192
        --per_device_train_batch_size {batch} --gradient_accumulation_steps {accumulation}
        --logging_steps 1 --save_steps 200 --save_total_limit 1 --report_to tensorboard {zero} {recipe}""".split()


PRM = "--objective prm --grad_checkpoint True --learning_rate {} --num_train_epochs {}"


@pytest.mark.parametrize(
    ("name", "model", "output", "gpus", "accumulation", "stage", "rate", "lora"),
    [
        ("38b_dynamic_res_2nd_finetune_full_prm", "work_dirs/mm_policy", "mm_prm", 8, 4, 3, "4e-6", ""),
        ("8b_dynamic_res_2nd_finetune_full_prm", "work_dirs/mm_policy", "mm_prm_8b", 8, 4, 1, "4e-6", ""),
        ("8b_dynamic_res_2nd_finetune_lora_prm", "work_dirs/mm_policy", "mm_prm_8b_lora", 1, 32, 1, "4e-5", "16"),
        (
            "1b_dynamic_res_2nd_finetune_lora_prm",
            "pretrained/InternVL2_5-1B-native",
            "mm_prm_1b_lora",
            1,
            32,
            1,
            "4e-5",
            "16",
        ),
    ],
)
def test_a_prm_script_runs_with_nothing_else_set(launch, name, model, output, gpus, accumulation, stage, rate, lora):
    done = launch(name)
    recipe = PRM.format(rate, 1) + (f" --use_llm_lora {lora}" if lora else "")
    expected = finetune(model, f"work_dirs/{output}", 16, accumulation, recipe, stage=stage)
    assert done.words == torchrun(gpus) + expected, done.stderr
    assert done.said == [f"batch 512 = 16 per process x {gpus} processes x {accumulation} accumulation steps"]


def test_the_policy_script_runs_with_nothing_else_set(launch):
    done = launch("8b_dynamic_res_2nd_finetune_full_policy")
    meta = SCRIPTS / ".." / ".." / "data" / "policy.json"
    recipe = "--objective sft --grad_checkpoint True --learning_rate 4e-5 --num_train_epochs 1"
    expected = finetune("pretrained/InternVL2_5-8B-native", "work_dirs/mm_policy", 1, 16, recipe, meta=meta)
    assert done.words == torchrun() + expected, done.stderr


FULL = "8b_dynamic_res_2nd_finetune_full_prm"
LORA = "8b_dynamic_res_2nd_finetune_lora_prm"


def test_two_nodes_share_the_batch(launch):
    nodes = {"NNODES": 2, "NODE_RANK": 1, "MASTER_ADDR": "host0", "MASTER_PORT": 1234}
    done = launch("38b_dynamic_res_2nd_finetune_full_prm", PRESET="released", **nodes)
    expected = finetune("work_dirs/mm_policy", "work_dirs/mm_prm", 16, 2, PRM.format("2e-6", 3), stage=3)
    assert done.words == torchrun(8, 2, 1, "host0", 1234) + expected, done.stderr


def test_variables_and_flags_override(launch):
    own = {"MODEL_PATH": "pretrained/InternVL2_5-1B-native", "OUTPUT_DIR": "o", "LEARNING_RATE": "1e-6", "EPOCHS": 2}
    done = launch(FULL, "--max_dynamic_patch", "1", GPUS=1, BATCH_SIZE=64, PER_DEVICE_BATCH_SIZE=2, ZERO_STAGE=3, **own)
    recipe = PRM.format("1e-6", 2) + " --max_dynamic_patch 1"
    expected = finetune("pretrained/InternVL2_5-1B-native", "o", 2, 32, recipe, stage=3)
    assert done.words == torchrun(1) + expected, done.stderr


@pytest.mark.parametrize("hidden", [{"gpus": 0}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}])
def test_without_a_gpu_one_process_trains_on_the_cpu(launch, hidden):
    done = launch(FULL, NNODES=2, ZERO_STAGE=3, **hidden)
    recipe = PRM.format("4e-6", 1)
    expected = finetune("work_dirs/mm_policy", "work_dirs/mm_prm_8b", 16, 32, recipe, stage=None)
    assert done.words == expected, done.stderr
    assert done.said == [
        "no GPU found: training on the CPU, processes: 1, plain torch",
        "batch 512 = 16 per process x 1 processes x 32 accumulation steps",
    ]


def test_on_the_cpu_gloo_joins_processes_and_deepspeed_takes_one(launch):
    done = launch(FULL, gpus=0, CPU_PROCESSES=2)
    assert done.words[:9] == torchrun(2)[:9] and "--use_cpu True --ddp_backend gloo" in " ".join(done.words)
    assert done.said[0].endswith("processes: 2, gloo") and "x 2 processes x 16" in done.said[1]
    done = launch(FULL, "--deepspeed", "zero.json", gpus=0)
    assert done.words[: len(torchrun(1))] == torchrun(1) and "--use_cpu" not in done.words
    assert done.said[0].endswith("processes: 1, DeepSpeed")
    done = launch(FULL, "--deepspeed", "zero.json", gpus=0, CPU_PROCESSES=2)
    assert (done.returncode, done.words) == (2, []) and "DeepSpeed on a CPU in one process only" in done.stderr


@pytest.mark.parametrize(
    ("name", "env", "message"),
    [
        (FULL, {"MODEL_PATH": "none"}, "MODEL_PATH=none: no checkpoint there (config.json is missing)"),
        (FULL, {"META_PATH": "none"}, "META_PATH=none: no such dataset file"),
        (FULL, {"PYTHON": "none"}, "PYTHON=none: not found; run bash install.sh, or name an interpreter"),
        (FULL, {"PRESET": "x"}, "PRESET=x: must be paper or released"),
        (FULL, {"ZERO_STAGE": "2"}, "ZERO_STAGE=2: must be 1 or 3"),
        (
            LORA,
            {"ZERO_STAGE": "3"},
            "ZERO_STAGE=3: adapters cannot be merged into weights that are spread over GPUs, use 1",
        ),
        (FULL, {"GPUS": "0"}, "GPUS=0: must be a whole number of at least 1"),
        (FULL, {"GPUS": "08"}, "GPUS=08: must be a whole number of at least 1"),
        (FULL, {"BATCH_SIZE": "big"}, "BATCH_SIZE=big: must be a whole number of at least 1"),
        (FULL, {"PER_DEVICE_BATCH_SIZE": "1.5"}, "PER_DEVICE_BATCH_SIZE=1.5: must be a whole number of at least 1"),
        (FULL, {"NNODES": "-1"}, "NNODES=-1: must be a whole number of at least 1"),
        (FULL, {"MASTER_PORT": "x"}, "MASTER_PORT=x: must be a whole number of at least 1"),
        (FULL, {"NODE_RANK": "1"}, "NODE_RANK=1: must be a number from 0 to NNODES - 1 (NNODES=1)"),
        (FULL, {"NODE_RANK": "a"}, "NODE_RANK=a: must be a number from 0 to NNODES - 1 (NNODES=1)"),
        (FULL, {"gpus": 4}, "GPUS=8: this machine lets us use 4"),
        (LORA, {"GPUS": 2, "CUDA_VISIBLE_DEVICES": "3"}, "GPUS=2: this machine lets us use 1"),
        (FULL, {"BATCH_SIZE": 100}, "BATCH_SIZE=100 is not a multiple of PER_DEVICE_BATCH_SIZE=16 x 8 processes"),
        (FULL, {"BATCH_SIZE": 32}, "BATCH_SIZE=32 is not a multiple of PER_DEVICE_BATCH_SIZE=16 x 8 processes"),
    ],
)
def test_what_cannot_work_is_one_line(launch, name, env, message):
    done = launch(name, **env)
    assert (done.returncode, done.stderr, done.words) == (2, f"error: {message}\n", [])


@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("internvl_chat/shell/launch.sh", []),
        ("data_pipeline/run_data_pipeline.sh", []),
        ("eval/evaluate.sh", ["model", "k12_prm"]),
    ],
)
@pytest.mark.parametrize("active", [0, 1])
def test_the_active_python_is_taken_if_it_has_the_project_else_the_one_in_venv(tmp_path, script, args, active):
    for name, code in (("bin", 64 * (1 - active)), (".venv/bin", 0), ("model", 0), (Path(script).parent, 0)):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "python").write_text(f'#!/bin/sh\necho "$0 k12_prm" >>calls\nexit {code}\n')
        (tmp_path / name / "python").chmod(0o755)
    (tmp_path / "mm_prm").mkdir()
    (tmp_path / "internvl_chat/shell").mkdir(parents=True, exist_ok=True)
    for copied in (script, "internvl_chat/shell/processes.sh", "mm_prm/find_python.sh"):
        (tmp_path / copied).write_text((ROOT / copied).read_text())
    (tmp_path / "model/config.json").touch()
    (tmp_path / "questions_part_1.json").touch()
    env = {"MODEL_PATH": "model", "META_PATH": "model/config.json", "OUTPUT_DIR": "o", "GPUS": "1", "SPLIT_DIR": "."}
    env |= {"BATCH_SIZE": "1", "PER_DEVICE_BATCH_SIZE": "1", "POLICY_ENDPOINT": "http://h/v1"}
    env["PATH"] = f"{tmp_path}/bin:/usr/bin:/bin"
    subprocess.run(["sh", script, *args], cwd=tmp_path, env=env, capture_output=True, timeout=30)
    asked, used, *_ = (tmp_path / "calls").read_text().splitlines()
    assert asked == f"{tmp_path}/bin/python k12_prm"
    assert used == asked if active else used.endswith("/.venv/bin/python k12_prm")


def test_the_exit_code_is_the_trainings(launch, tmp_path):
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 7\n")
    assert launch(FULL).returncode == 7 and launch(FULL, gpus=0).returncode == 7


def test_zero_3_saves_whole_weights_and_both_stages_take_the_trainers_numbers():
    one, three = (json.loads((CHAT / f"zero_stage{stage}_config.json").read_text()) for stage in (1, 3))
    assert (one.pop("zero_optimization")["stage"], three["zero_optimization"]["stage"]) == (1, 3)
    assert three.pop("zero_optimization")["stage3_gather_16bit_weights_on_model_save"] is True
    trainer = ("gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu")
    assert one == three == {"bf16": {"enabled": "auto"}, **dict.fromkeys(trainer, "auto")}
