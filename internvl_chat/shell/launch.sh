#!/bin/sh
# Start the fine-tune script under torchrun on this node's GPUs, or in one process on its CPU when it has none. Called by the scripts
# in 2nd_finetune, which set the variables below; flags are passed through.
set -eu

: "${MODEL_PATH:?}" "${META_PATH:?}" "${OUTPUT_DIR:?}" "${GPUS:?}" "${BATCH_SIZE:?}" "${PER_DEVICE_BATCH_SIZE:?}"
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
MASTER_PORT=${MASTER_PORT:-29500}
PYTHON=${PYTHON:-python}
ROOT=$(cd "$(dirname "$0")/.." && pwd)

[ -f "$MODEL_PATH/config.json" ] || { echo "error: MODEL_PATH=$MODEL_PATH: no checkpoint there" >&2; exit 2; }
[ -f "$META_PATH" ] || { echo "error: META_PATH=$META_PATH: no such dataset file" >&2; exit 2; }

if [ -n "${CUDA_VISIBLE_DEVICES-all}" ] && nvidia-smi -L 2>/dev/null | grep -q GPU; then
  DEVICE=gpu BF16=True
  set -- --deepspeed "$ROOT/zero_stage1_config.json" "$@"
else
  echo "no GPU found: training with one process on the CPU, without DeepSpeed"
  DEVICE=cpu GPUS=1 BF16=True
  # A CPU without bfloat16 units emulates them, three times slower than float32
  grep -qwE 'avx512_bf16|amx_bf16|bf16' /proc/cpuinfo || BF16=False
fi

WORLD=$((GPUS * NNODES))
ACCUMULATION=$((BATCH_SIZE / (PER_DEVICE_BATCH_SIZE * WORLD)))
if [ "$ACCUMULATION" -lt 1 ] || [ $((ACCUMULATION * PER_DEVICE_BATCH_SIZE * WORLD)) -ne "$BATCH_SIZE" ]; then
  echo "error: BATCH_SIZE=$BATCH_SIZE is not a multiple of PER_DEVICE_BATCH_SIZE=$PER_DEVICE_BATCH_SIZE x $WORLD processes" >&2
  exit 2
fi
echo "batch $BATCH_SIZE = $PER_DEVICE_BATCH_SIZE per process x $WORLD processes x $ACCUMULATION accumulation steps"

set -- "$ROOT/internvl/train/internvl_chat_finetune.py" \
  --model_name_or_path "$MODEL_PATH" --meta_path "$META_PATH" --output_dir "$OUTPUT_DIR" \
  --per_device_train_batch_size "$PER_DEVICE_BATCH_SIZE" --gradient_accumulation_steps "$ACCUMULATION" \
  --bf16 $BF16 --logging_steps 1 --save_steps 200 --save_total_limit 1 --report_to none "$@"
[ "$DEVICE" = gpu ] || exec "$PYTHON" "$@"
exec "$PYTHON" -m torch.distributed.run --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS" \
  --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" "$@"
