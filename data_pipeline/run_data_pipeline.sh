#!/bin/sh
# Chunks -> trees: serve the policy with vLLM on this machine's GPUs (or CPU), annotate chunk after chunk, stop the server.
#
#   POLICY_MODEL=work_dirs/mm_policy sh data_pipeline/run_data_pipeline.sh
#   NNODES=4 NODE_RANK=0 POLICY_MODEL=... sh data_pipeline/run_data_pipeline.sh     each of 4 machines takes every 4th chunk
#
# Flags of run_data_pipeline.py may follow; they win over the variables. Exit codes: 0 all done, 3 problems unfinished (run
# it again), any other is the code of the worker that failed.
set -eu

# Data
SPLIT_DIR=${SPLIT_DIR:-outputs/chunks}          # folder with questions_part_*.json
OUTPUT_DIR=${OUTPUT_DIR:-outputs/trees}
LOG_DIR=${LOG_DIR:-outputs/logs}

# Machines
NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}                       # 0 to NNODES - 1

# Policy: a checkpoint to serve here, or the endpoints (URL[,URL]) of servers that run already
POLICY_MODEL=${POLICY_MODEL:-}
POLICY_ENDPOINT=${POLICY_ENDPOINT:-}
[ -z "$POLICY_ENDPOINT" ] || POLICY_NAME=${POLICY_NAME:-policy}   # what a server that runs calls it
POLICY_NAME=${POLICY_NAME:-${POLICY_MODEL:-}}   # kept in the trees; a partial tree of another policy is begun anew
PORT=${PORT:-8000}
VLLM_ARGS=${VLLM_ARGS:-}                        # more flags for vLLM

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$HERE")
. "$ROOT/mm_prm/find_python.sh"

part_numbers() { # in natural order
  ls "$SPLIT_DIR" 2>/dev/null | sed -n 's/^questions_part_\([0-9][0-9]*\)\.json$/\1/p' | sort -n
}

parts_of_this_node() {
  part_numbers | awk -v nodes="$NNODES" -v rank="$NODE_RANK" '(NR - 1) % nodes == rank'
}

stop_worker() { # on a signal: the worker keeps what is finished, and no other chunk is begun
  trap '' HUP INT TERM
  kill -TERM "${!:-}" 2>/dev/null || exit 3     # between two workers
  code=0
  wait "$!" || code=$?
  [ "$code" -ne 0 ] || code=3                   # its chunk is done, the others may not be
  exit "$code"
}

annotate_chunks() { # one worker after another
  export MM_PRM_DIE_WITH_PARENT=1               # not even SIGKILL of this shell leaves a worker behind
  trap stop_worker HUP INT TERM
  status=0
  for part in $(parts_of_this_node); do
    name=questions_part_$part
    # In the background: a shell does not hear a signal while a command runs in the foreground.
    "$PYTHON" "$HERE/run_data_pipeline.py" --input_file "$SPLIT_DIR/$name.json" --output_dir "$OUTPUT_DIR" \
      --log_file "$LOG_DIR/$name.jsonl" --model "$POLICY_NAME" "$@" &
    code=0
    wait "$!" || code=$?
    case $code in
      0) ;;
      3) status=3 ;;                            # some problems unfinished: the other chunks still go on
      *) exit "$code" ;;
    esac
  done
  exit $status
}

[ -n "$POLICY_MODEL$POLICY_ENDPOINT" ] || fail "set POLICY_MODEL (checkpoint) or POLICY_ENDPOINT (running server)"
check_node
[ -n "$(part_numbers)" ] || fail "SPLIT_DIR=$SPLIT_DIR holds no questions_part_N.json"
if [ -z "$(parts_of_this_node)" ]; then
  echo "node $NODE_RANK of $NNODES: there are fewer chunks than nodes, none for this one"
  exit 0
fi

export SPLIT_DIR OUTPUT_DIR LOG_DIR NNODES NODE_RANK POLICY_ENDPOINT POLICY_NAME PYTHON
[ -z "$POLICY_ENDPOINT" ] || annotate_chunks "$@"

check_first "$PYTHON" "$HERE/run_data_pipeline.py" --input_file "$SPLIT_DIR/questions_part_$(parts_of_this_node | head -n 1).json" \
  --output_dir "$OUTPUT_DIR" --model "$POLICY_NAME" "$@"
# The launcher calls this script again, with POLICY_ENDPOINT set to the servers it started
SERVER_LOG=$LOG_DIR/policy_server.log
[ "$NNODES" -eq 1 ] || SERVER_LOG=$LOG_DIR/policy_server_node$NODE_RANK.log
# shellcheck disable=SC2086  # VLLM_ARGS is a list of flags
exec "$PYTHON" "$HERE/serve_policy.py" --model "$POLICY_MODEL" --name "$POLICY_NAME" --port "$PORT" \
  --log "$SERVER_LOG" $VLLM_ARGS -- sh "$0" "$@"
