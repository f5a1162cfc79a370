#!/bin/sh
# Chunks -> trees: serve the policy with vLLM on this machine's GPUs (or CPU), annotate chunk after chunk, stop the server.
#
#   POLICY_MODEL=work_dirs/mm_policy sh data_pipeline/run_data_pipeline.sh
#
# Flags of run_data_pipeline.py may follow; they win over the variables.
set -eu

# Data
SPLIT_DIR=${SPLIT_DIR:-outputs/chunks}          # folder with questions_part_*.json
OUTPUT_DIR=${OUTPUT_DIR:-outputs/trees}
LOG_DIR=${LOG_DIR:-outputs/logs}

# Policy: a checkpoint to serve here, or the endpoint of a server that runs already
POLICY_MODEL=${POLICY_MODEL:-}
POLICY_ENDPOINT=${POLICY_ENDPOINT:-}
POLICY_NAME=${POLICY_NAME:-policy}
PORT=${PORT:-8000}
VLLM_ARGS=${VLLM_ARGS:-}                        # more flags for vLLM

PYTHON=${PYTHON:-python}
HERE=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = --annotate-chunks ]; then       # called back below, beside the running server
  shift
  status=0
  for chunk in "$SPLIT_DIR"/questions_part_*.json; do
    [ -e "$chunk" ] || { echo "error: SPLIT_DIR=$SPLIT_DIR holds no questions_part_*.json" >&2; exit 2; }
    name=$(basename "$chunk" .json)
    code=0
    "$PYTHON" "$HERE/run_data_pipeline.py" --input_file "$chunk" --output_dir "$OUTPUT_DIR" \
      --log_file "$LOG_DIR/$name.jsonl" --policy_endpoint "$POLICY_ENDPOINT" --model "$POLICY_NAME" "$@" || code=$?
    case $code in
      0) ;;
      3) status=3 ;;                            # some problems unfinished: the other chunks still go on
      *) exit "$code" ;;
    esac
  done
  exit $status
fi

export SPLIT_DIR OUTPUT_DIR LOG_DIR POLICY_NAME PYTHON
if [ -n "$POLICY_ENDPOINT" ]; then
  export POLICY_ENDPOINT
  exec sh "$0" --annotate-chunks "$@"
fi
[ -n "$POLICY_MODEL" ] || { echo "error: set POLICY_MODEL (checkpoint) or POLICY_ENDPOINT (running server)" >&2; exit 2; }
export POLICY_ENDPOINT="http://127.0.0.1:$PORT/v1"
# shellcheck disable=SC2086  # VLLM_ARGS is a list of flags
exec "$PYTHON" "$HERE/serve_policy.py" --model "$POLICY_MODEL" --name "$POLICY_NAME" --port "$PORT" \
  --log "$LOG_DIR/policy_server.log" $VLLM_ARGS -- sh "$0" --annotate-chunks "$@"
