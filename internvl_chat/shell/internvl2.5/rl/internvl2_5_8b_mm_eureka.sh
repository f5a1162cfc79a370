#!/bin/sh
# Stage 7: seed problems + 8B policy -> a better policy, by RLOO with the settings of MM-Eureka's first version (arXiv
# 2503.07365).
#
#   GPUS=8 sh THIS_SCRIPT
#
# Everything is trained; 128 prompts x 8 answers, 16 optimizer steps of 64 answers, 1 pass over the problems of which some
# but not all of 8 answers are right. Flags of internvl_chat_rl.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

# ZeRO-1 on 8 GPUs takes 2 x 8.1 + 2 x 8.1 + 12 x 8.1 / 8 = 45 GB per GPU, the server of the policy 0.3 x 80 = 24
export GPUS="${GPUS:-8}"
export MODEL_PATH="${MODEL_PATH:-pretrained/InternVL2_5-8B-native}"
export SEED_FILE="${SEED_FILE:-data/seed.json}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_eureka_8b}"

exec sh "$HERE/../../rl.sh" --algorithm rloo --learning_rate "${LEARNING_RATE:-3e-7}" --passes "${PASSES:-1}" \
  --prompts "${PROMPTS:-128}" --updates_per_rollout "${UPDATES:-16}" --drop_solved --step_format think \
  --freeze_backbone False --grad_checkpoint True "$@"
