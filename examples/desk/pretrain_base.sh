#!/usr/bin/env bash
# Problems -> the base model in examples/desk/base: a 3-million-parameter InternVL that has seen the desk's kinds of
# problem at a constant learning rate. It is to the desk-scale study what InternVL2.5-8B is to the paper's MM-Policy:
# the checkpoint stage 0 starts from. About 35 minutes on 2 CPU cores, which is why its result is kept in the repository.
#
#   bash examples/desk/pretrain_base.sh runs/desk_base examples/desk/base
set -euo pipefail
cd "$(dirname "$0")/../.."
WORK=${1:-runs/desk_base}
OUTPUT=${2:-$WORK/base}
PYTHON=${PYTHON:-python}
STEPS=${STEPS:-6000}

train() { # dataset, start checkpoint, output folder, flags
  local meta=$1 start=$2 output=$3
  shift 3
  "$PYTHON" internvl_chat/internvl/train/internvl_chat_finetune.py --objective sft --model_name_or_path "$start" \
    --meta_path "$meta" --output_dir "$output" --optim adamw_torch_fused --adam_beta2 0.98 \
    --per_device_train_batch_size 32 --logging_steps 50 --report_to none "$@"
}

"$PYTHON" examples/desk/make_problems.py --output_dir "$WORK/data" --train 8400 --solutions 4 --slip_rate 0.45
"$PYTHON" examples/desk/make_model.py --sft_file "$WORK/data/sft.jsonl" --output_dir "$WORK/init"
# First only the step that reads the picture: the vision tower learns digits before anything has to be computed.
train "$WORK/data/read_meta.json" "$WORK/init" "$WORK/read" --max_steps 300 --learning_rate 2e-3 \
  --warmup_steps 50 --lr_scheduler_type constant_with_warmup --save_strategy no
train "$WORK/data/sft_meta.json" "$WORK/read" "$OUTPUT" --max_steps "$STEPS" --learning_rate 2e-3 \
  --warmup_steps 50 --lr_scheduler_type constant_with_warmup --save_steps 1000 "${@:3}"
rm -rf "$OUTPUT"/checkpoint-*
