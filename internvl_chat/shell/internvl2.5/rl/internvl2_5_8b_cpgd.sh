#!/bin/sh
# Stage 7: seed problems + 8B policy -> a better policy, by CPGD with the settings of arXiv 2505.12504.
#
#   GPUS=8 sh THIS_SCRIPT
#
# Language model trained, vision tower and projector frozen; 128 prompts x 8 answers, 8 optimizer steps of 128 answers, 5
# passes. Flags of internvl_chat_rl.py may follow; they win over what is set here.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)

# ZeRO-1 on 8 GPUs takes 2 x 8.1 + 2 x 7.8 + 12 x 7.8 / 8 = 44 GB per GPU, the server of the policy 0.3 x 80 = 24
export GPUS="${GPUS:-8}"
export MODEL_PATH="${MODEL_PATH:-work_dirs/mm_policy}"
export SEED_FILE="${SEED_FILE:-data/seed.json}"
export OUTPUT_DIR="${OUTPUT_DIR:-work_dirs/mm_policy_cpgd}"

exec sh "$HERE/../../rl.sh" --algorithm cpgd --learning_rate "${LEARNING_RATE:-1e-6}" --passes "${PASSES:-5}" \
  --prompts "${PROMPTS:-128}" --updates_per_rollout "${UPDATES:-8}" \
  --freeze_backbone True --freeze_mlp True --grad_checkpoint True "$@"
