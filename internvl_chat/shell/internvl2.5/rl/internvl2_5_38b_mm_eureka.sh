#!/bin/sh
# Stage 7: seed problems + 38B base model -> a policy, by RLOO with the settings of MM-Eureka's first version (arXiv
# 2503.07365; its paper has the rate 5e-7, its script 3e-7).
#
#   GPUS=8 NNODES=2 NODE_RANK=0 MASTER_ADDR=host0 POLICY_ENDPOINT=URL[,URL] sh THIS_SCRIPT
#
# The servers run on GPUs of their own, on any machine (docs/reproduce.md); OUTPUT_DIR and --weights_dir must be folders that
# all of them see. A base model gets 1 for the format. An optimizer step takes 128 answers, not 64 as in the paper: 16
# prompts are one for each of 16 GPUs. Flags of internvl_chat_rl.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

# 38.4B parameters, all trained. GB per GPU, ZeRO-3: (2 + 14) x 38.4 / 8 = 77, on 16 GPUs 38; activations come on top.
export GPUS="${GPUS:-8}"
export ZERO_STAGE="${ZERO_STAGE:-3}"
export MODEL_PATH="${MODEL_PATH:-pretrained/InternVL2_5-38B-native}"
export SEED_FILE="${SEED_FILE:-data/seed.json}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_eureka_38b}"

exec sh "$HERE/../../rl.sh" --algorithm rloo --learning_rate "${LEARNING_RATE:-3e-7}" --passes "${PASSES:-1}" \
  --prompts "${PROMPTS:-128}" --updates_per_rollout "${UPDATES:-8}" --drop_solved --step_format think \
  --format_weight 1 --freeze_backbone False --grad_checkpoint True "$@"
