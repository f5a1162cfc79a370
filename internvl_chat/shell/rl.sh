#!/bin/sh
# Start stage 7: the policy's vLLM servers, and beside them internvl_chat_rl.py on this node's GPUs, or on its CPU when it
# has none. Called by the scripts in internvl2.5/rl, which set the recipe; flags are passed through and win.
set -eu

: "${MODEL_PATH:?}" "${SEED_FILE:?}" "${OUTPUT_DIR:?}" "${GPUS:?}"

# Servers: started here, on the GPUs that train or on others, or servers of your own (docs/reproduce.md)
POLICY_ENDPOINT=${POLICY_ENDPOINT:-}            # URL[,URL] of servers that run already
ROLLOUT_GPUS=${ROLLOUT_GPUS:-}                  # ids of GPUs that only serve, like 6,7; then GPUS are the other ones
ROLLOUT_TP=${ROLLOUT_TP:-1}                     # GPUs per server
VLLM_MEMORY=${VLLM_MEMORY:-$([ "$ROLLOUT_GPUS" ] && echo 0.9 || echo 0.3)} # share of a GPU's memory that a server takes
CONTEXT=${CONTEXT:-8192}                        # tokens of prompt and answer together
PORT=${PORT:-8000}
VLLM_ARGS=${VLLM_ARGS:-}                        # more flags for vLLM

CHAT=$(cd "$(dirname "$0")/.." && pwd)
ROOT=$(dirname "$CHAT")
[ -z "${TRAIN_GPUS:-}" ] || export CUDA_VISIBLE_DEVICES="$TRAIN_GPUS"   # the second call, beside servers on ROLLOUT_GPUS
. "$CHAT/shell/processes.sh"
[ -f "$SEED_FILE" ] || fail "SEED_FILE=$SEED_FILE: no such file of problems"

serve() { # the launcher calls this script again, with POLICY_ENDPOINT set to the servers it started
  [ "$NNODES" -eq 1 ] || fail "NNODES=$NNODES: start servers yourself and name all of them in POLICY_ENDPOINT"
  if [ "$ROLLOUT_GPUS" ]; then
    export TRAIN_GPUS="${CUDA_VISIBLE_DEVICES:?"the GPUs that train, beside ROLLOUT_GPUS=$ROLLOUT_GPUS"}"
    export CUDA_VISIBLE_DEVICES="$ROLLOUT_GPUS"
  fi
  case $ENGINE in
    GPU) VLLM_ARGS="--gpu-memory-utilization $VLLM_MEMORY $VLLM_ARGS" ;;
    *) VLLM_ARGS="--dtype float32 $VLLM_ARGS" ;;  # as the trainer: what is served is compared with it
  esac
  check_first "$PYTHON" "$CHAT/internvl/train/internvl_chat_rl.py" --model_name_or_path "$MODEL_PATH" --seed_file "$SEED_FILE" \
    --output_dir "$OUTPUT_DIR" "$@"
  # Weights are handed over by vLLM's development paths. serve_policy.py's servers listen on 127.0.0.1 alone.
  export VLLM_SERVER_DEV_MODE=1
  # shellcheck disable=SC2086  # VLLM_ARGS is a list of flags
  exec "$PYTHON" "$ROOT/data_pipeline/serve_policy.py" --model "$MODEL_PATH" --port "$PORT" \
    --log "$OUTPUT_DIR/policy_server.log" --tensor-parallel-size "$ROLLOUT_TP" --max-model-len "$CONTEXT" \
    --worker-extension-cls internvl.rl.sync.WeightLoader --logprobs-mode processed_logprobs $VLLM_ARGS -- sh "$0" "$@"
}

[ "$POLICY_ENDPOINT" ] || serve "$@"
[ "$ENGINE" != GPU ] || set -- --deepspeed "$CHAT/zero_stage${ZERO_STAGE}_config.json" --bf16 True "$@"

# Curves: tensorboard --logdir "$OUTPUT_DIR/runs"
start_processes "$CHAT/internvl/train/internvl_chat_rl.py" \
  --model_name_or_path "$MODEL_PATH" --seed_file "$SEED_FILE" --output_dir "$OUTPUT_DIR" "$@"
