#!/usr/bin/env bash
# The desk-scale study, end to end, on a machine without a GPU: problems -> policy -> trees -> labels -> PRM -> Best-of-16.
#
#   bash quickstart.sh                    10 to 16 minutes on 2 CPU cores, installation included
#   DESK_SCALE=small bash quickstart.sh   a smaller study of about 5 minutes
#   DESK_FROM_SCRATCH=1 bash quickstart.sh   trains the base model too (35 minutes more)
#
# Everything is written under runs/desk (runs/desk_small, runs/desk_scratch). Run it again after an interruption: what is
# finished is not done again.
set -euo pipefail
cd "$(dirname "$0")"

SCALE=${DESK_SCALE:-full} SCRATCH=
if [ "${DESK_FROM_SCRATCH:-0}" = 1 ]; then SCRATCH=_scratch; fi
case $SCALE in
  full) RUN=${DESK_RUN:-runs/desk$SCRATCH} TRAIN=4000 SOLUTIONS=2 ANNOTATE=400 DEV=150 TEST=300 EPOCHS=4 ;;
  small) RUN=${DESK_RUN:-runs/desk_small$SCRATCH} TRAIN=1500 SOLUTIONS=1 ANNOTATE=120 DEV=60 TEST=120 EPOCHS=5 ;;
  *) echo "error: DESK_SCALE=$SCALE: must be full or small" >&2; exit 2 ;;
esac
BASE=examples/desk/base
DATA=$RUN/data
POLICY=$RUN/policy
export MM_PRM_DIE_WITH_PARENT=1 # even kill -9 of this script leaves nothing running
export PORT=${PORT:-8377} PYTHON=$PWD/.venv/bin/python TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
SHELL_DIR=internvl_chat/shell/internvl2.5/2nd_finetune

# How rollouts are drawn at desk scale (the paper's values are the scripts' defaults)
DRAW=(--judge rule --prefix_mode prefill --repetition_penalty 1.0 --max_new_tokens 160 --concurrency 128)

# One tile of 112 pixels per picture
TILES=(--dynamic_image_size False --max_dynamic_patch 1 --use_thumbnail False)

stage() { # "what it does (how long)" file-that-says-it-is-done command...
  local title=$1 result=$2
  shift 2
  if [ -e "$result" ]; then
    echo "== done: $title"
    return
  fi
  echo "== $title"
  "$@"
}

annotate() { # stage 1 and 2
  "$PYTHON" data_pipeline/process_json.py --input_file "$DATA/annotate.json" --output_dir "$RUN/chunks" --num_splits 2
  SPLIT_DIR=$RUN/chunks OUTPUT_DIR=$RUN/trees LOG_DIR=$RUN/logs sh data_pipeline/run_data_pipeline.sh \
    "${DRAW[@]}" --num_rollouts 8 --max_search_count 6 --rollout_budget 120
  touch "$RUN/trees.done"
}

rollouts() { # candidates for one split
  "$PYTHON" eval/generate_rollouts.py --data "$DATA/$1.json" --output_file "$RUN/rollouts_$1.json" \
    --model policy --num_rollouts 16 "${DRAW[@]}"
}

with_policy() { # everything that needs the policy server, called back beside it
  stage "stage 2: tree search with real rollouts (2 minutes)" "$RUN/trees.done" annotate
  stage "stage 6: 16 candidates for every dev problem (20 s)" "$RUN/rollouts_dev.json" rollouts dev
  stage "stage 6: 16 candidates for every test problem (40 s)" "$RUN/rollouts_test.json" rollouts test
}

paths() { # stage 3 and 4 for one kind of labels
  "$PYTHON" data_pipeline/traverse.py --input_dir "$RUN/trees" --output_file "$RUN/paths_$1.json" --labels_from "$1"
  "$PYTHON" data_pipeline/prm_data_format.py --input_file "$RUN/paths_$1.json" --image_root "$DATA" \
    --output_file "$RUN/prm_$1.jsonl" --meta_file "$RUN/prm_$1_meta.json" --name "desk_$1"
}

train_prm() { # stage 5
  MODEL_PATH=$POLICY META_PATH=$RUN/prm_$1_meta.json OUTPUT_DIR=$RUN/prm_$1 GPUS=1 BATCH_SIZE=32 \
    PER_DEVICE_BATCH_SIZE=32 LEARNING_RATE=5e-4 EPOCHS=$EPOCHS \
    sh "$SHELL_DIR/internvl2_5_8b_dynamic_res_2nd_finetune_full_prm.sh" \
    "${TILES[@]}" --grad_checkpoint False --save_strategy no --logging_steps 10 --adam_beta2 0.98
}

evaluate() { # stage 6 for one kind of labels: the dev split fixes the aggregation, the test split is used once
  OUTPUT_DIR=$RUN/eval_dev ROLLOUTS=$RUN/rollouts_dev.json SCORE=$RUN/dev_score_$1.json \
    sh eval/evaluate.sh "$RUN/prm_$1" "$DATA/dev.json" >/dev/null
  OUTPUT_DIR=$RUN/eval_test ROLLOUTS=$RUN/rollouts_test.json SCORE=$2 SELECT_ON=$RUN/dev_score_$1.json \
    sh eval/evaluate.sh "$RUN/prm_$1" "$DATA/test.json"
}

if [ "${1:-}" = --with-policy ]; then
  with_policy
  exit
fi

bash install.sh
mkdir -p "$RUN"
stage "making problems with pictures (10 s)" "$DATA/sft_meta.json" "$PYTHON" examples/desk/make_problems.py \
  --output_dir "$DATA" --train $TRAIN --solutions $SOLUTIONS --annotate $ANNOTATE --dev $DEV --test $TEST

if [ -n "$SCRATCH" ]; then
  BASE=$RUN/base
  stage "training the base model from nothing (35 minutes)" "$BASE/train_results.json" \
    bash examples/desk/pretrain_base.sh "$RUN/pretraining" "$BASE"
fi

MODEL_PATH=$BASE META_PATH=$DATA/sft_meta.json OUTPUT_DIR=$POLICY GPUS=1 BATCH_SIZE=32 PER_DEVICE_BATCH_SIZE=32 \
  LEARNING_RATE=2e-3 stage "stage 0: fine-tuning MM-Policy on the teacher's solutions (90 s)" \
  "$POLICY/train_results.json" sh $SHELL_DIR/internvl2_5_8b_dynamic_res_2nd_finetune_full_policy.sh \
  "${TILES[@]}" --freeze_backbone False --grad_checkpoint False --save_strategy no --logging_steps 25 --adam_beta2 0.98 --lr_scheduler_type linear

if [ -e "$RUN/trees.done" ] && [ -e "$RUN/rollouts_dev.json" ] && [ -e "$RUN/rollouts_test.json" ]; then
  with_policy # says that all is done
else
  echo "== starting the policy server (30 to 60 s)"
  "$PYTHON" data_pipeline/serve_policy.py --model "$POLICY" --port "$PORT" \
    --log "$RUN/logs/policy_server.log" --max-model-len 512 --limit-mm-per-prompt '{"image": 1, "video": 0}' \
    -- bash quickstart.sh --with-policy
fi

for labels in rollouts edges; do
  score=$RUN/score.json
  [ $labels = rollouts ] || score=$RUN/score_edges.json
  stage "stages 3 and 4: labelled paths from $labels (5 s)" "$RUN/prm_${labels}_meta.json" paths $labels
  stage "stage 5: training the PRM on $labels labels (40 to 100 s)" "$RUN/prm_$labels/train_results.json" train_prm $labels
  stage "stage 6: scoring with the $labels PRM (40 s)" "$score" evaluate $labels "$score"
done
stage "the figure and three cases (5 s)" "$RUN/report.md" "$PYTHON" examples/desk/report.py --run_dir "$RUN"
cat "$RUN/table.txt"
echo "more: $RUN/report.md, $RUN/accuracy_against_n.png, $RUN/case_*.png, $RUN/score.json, $RUN/score_edges.json"
