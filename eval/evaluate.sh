#!/bin/sh
# Checkpoint + dataset -> rollouts, step scores, Best-of-N table. What is done is skipped.
#
#   POLICY_MODEL=work_dirs/mm_policy sh eval/evaluate.sh work_dirs/mm_prm test.json
#
# DATASET is a seed-format file, or a rollouts file (then no policy is needed). Flags of generate_rollouts.py may follow.
set -eu

[ $# -ge 2 ] || { echo "usage: sh eval/evaluate.sh CHECKPOINT DATASET [flags of generate_rollouts.py]" >&2; exit 2; }
CHECKPOINT=$1
DATASET=$2
shift 2

BENCHMARK=${BENCHMARK:-seed}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/eval/$(basename "$DATASET" .json)}   # set it for another policy or other flags
ROLLOUTS=${ROLLOUTS:-$OUTPUT_DIR/rollouts.json}
SCORE=${SCORE:-}                                # where the metrics go; default: beside the scores
SELECT_ON=${SELECT_ON:-}                        # score file of a dev split that fixes the aggregation

# Policy: a checkpoint to serve here, or the endpoints (URL[,URL]) of servers that run already
POLICY_MODEL=${POLICY_MODEL:-}
export POLICY_ENDPOINT="${POLICY_ENDPOINT:-}"   # the launcher sets it for the servers it starts
POLICY_NAME=${POLICY_NAME:-policy}
PORT=${PORT:-8000}
VLLM_ARGS=${VLLM_ARGS:-}

PYTHON=${PYTHON:-python}
HERE=$(cd "$(dirname "$0")" && pwd)

[ -f "$DATASET" ] || { echo "error: $DATASET: no such file" >&2; exit 2; }
[ -f "$CHECKPOINT/config.json" ] || { echo "error: $CHECKPOINT: no checkpoint there (config.json is missing)" >&2; exit 2; }

if grep -q '"solutions_splits"' "$DATASET"; then
  ROLLOUTS=$DATASET
elif [ "$ROLLOUTS" -nt "$DATASET" ]; then
  echo "reusing the candidates in $ROLLOUTS"
else
  rm -f "$ROLLOUTS"                             # made from an older version of the dataset, if it is there at all
  mkdir -p "$OUTPUT_DIR"
  set -- "$PYTHON" "$HERE/generate_rollouts.py" --benchmark "$BENCHMARK" --data "$DATASET" \
    --output_file "$ROLLOUTS" --model "$POLICY_NAME" "$@"
  if [ -n "$POLICY_ENDPOINT" ]; then
    "$@"
  else
    [ -n "$POLICY_MODEL" ] || { echo "error: set POLICY_MODEL (checkpoint) or POLICY_ENDPOINT (running server)" >&2; exit 2; }
    # shellcheck disable=SC2086  # VLLM_ARGS is a list of flags
    "$PYTHON" "$HERE/../data_pipeline/serve_policy.py" --model "$POLICY_MODEL" --name "$POLICY_NAME" --port "$PORT" \
      --log "$OUTPUT_DIR/policy_server.log" $VLLM_ARGS -- "$@"
  fi
fi

# Named after the checkpoint: another one scored on the same rollouts gets a file of its own
SCORED=${SCORED:-$OUTPUT_DIR/$(basename "$CHECKPOINT")_scored.json}
if [ "$SCORED" -nt "$ROLLOUTS" ] && [ "$SCORED" -nt "$CHECKPOINT/config.json" ]; then
  echo "reusing the scores in $SCORED"
else
  "$PYTHON" "$HERE/prm/evaluate_prm.py" --checkpoint "$CHECKPOINT" --input_file "$ROLLOUTS" --output_file "$SCORED"
fi
exec "$PYTHON" "$HERE/prm/extract_calculate.py" --input_file "$SCORED" \
  ${SCORE:+--output_file "$SCORE"} ${SELECT_ON:+--select_on "$SELECT_ON"}
