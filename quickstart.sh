#!/usr/bin/env bash
# The desk-scale study, end to end, on a machine without a GPU: problems -> policy -> rollouts -> labels -> PRM -> Best-of-16.
#
#   bash quickstart.sh                    10 to 30 minutes on 2 CPU cores, installation included
#   DESK_SCALE=small bash quickstart.sh   a smaller study, about half as long
#   DESK_FROM_SCRATCH=1 bash quickstart.sh   trains the base model too (35 minutes more)
#
# Everything is written under runs/desk (runs/desk_small, runs/desk_scratch). Run it again after an interruption: what is
# finished is not done again. Settings and the function of each stage are in examples/desk/common.sh.
set -euo pipefail
cd "$(dirname "$0")"
case ${1:-} in
  '' | --with-policy) ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' quickstart.sh; exit ;;
  *) echo "error: $1: quickstart.sh takes no flags, only the variables that --help names" >&2; exit 2 ;;
esac
source examples/desk/common.sh

SCALE=${DESK_SCALE:-full} SCRATCH=
if [ "${DESK_FROM_SCRATCH:-0}" = 1 ]; then SCRATCH=_scratch; fi
case $SCALE in
  full) RUN=${DESK_RUN:-runs/desk$SCRATCH} TRAIN=4000 SOLUTIONS=2 ANNOTATE=400 DEV=150 TEST=300 EPOCHS=4 SEARCHES=6 ;;
  small) RUN=${DESK_RUN:-runs/desk_small$SCRATCH} TRAIN=1500 SOLUTIONS=1 ANNOTATE=120 DEV=30 TEST=60 EPOCHS=2 SEARCHES=3 ;;
  *) echo "error: DESK_SCALE=$SCALE: must be full or small" >&2; exit 2 ;;
esac
DATA=$RUN/data
POLICY=$RUN/policy

with_policy() { # everything that needs the policy server, called back beside it
  stage "stage 2, recommended: 8 plain rollouts of every problem (30 s)" "$RUN/plain/trees.done" \
    make_trees "$DATA/annotate.json" "$RUN/plain" 8 0
  stage "stage 2, the paper's: tree search with real rollouts (2 minutes)" "$RUN/trees.done" \
    make_trees "$DATA/annotate.json" "$RUN" 8 $SEARCHES
  stage "stage 6: 16 candidates for every dev problem (20 s)" "$RUN/rollouts_dev.json" \
    make_rollouts "$DATA/dev.json" "$RUN/rollouts_dev.json"
  stage "stage 6: 16 candidates for every test problem (40 s)" "$RUN/rollouts_test.json" \
    make_rollouts "$DATA/test.json" "$RUN/rollouts_test.json"
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

stage "stage 0: fine-tuning MM-Policy on the teacher's solutions (90 s)" "$POLICY/train_results.json" \
  train_policy "$DATA/sft_meta.json" "$POLICY"

if [ -e "$RUN/plain/trees.done" ] && [ -e "$RUN/trees.done" ] && [ -e "$RUN/rollouts_dev.json" ] &&
  [ -e "$RUN/rollouts_test.json" ]; then
  with_policy # says that all is done
else
  with_server "$POLICY" "$RUN/logs/policy_server.log" bash quickstart.sh --with-policy
fi

label_and_train() { # name, trees, kind of labels, scores: stages 3 to 6
  stage "stages 3 and 4: labelled paths, $1 (5 s)" "$RUN/prm_$1_meta.json" \
    make_rows "$2" "$DATA" "$RUN/prm_$1" --labels_from "$3"
  stage "stage 5: training the PRM on them (40 to 100 s)" "$RUN/prm_$1/train_results.json" \
    train_prm "$POLICY" "$RUN/prm_$1_meta.json" "$RUN/prm_$1" $EPOCHS 5e-4
  stage "stage 6: scoring with it (40 s)" "$4" evaluate "$1" "$4"
}
label_and_train plain "$RUN/plain/trees" rollout_outcome "$RUN/score.json"
label_and_train edges "$RUN/trees" edges "$RUN/score_edges.json"
stage "three cases (5 s)" "$RUN/cases/cases.md" "$PYTHON" eval/case_study.py \
  --input_file "$RUN/eval_test/prm_plain_scored.json" --output_dir "$RUN/cases"
stage "the table and the figure (3 s)" "$RUN/report.md" "$PYTHON" examples/desk/report.py --run_dir "$RUN"
cat "$RUN/table.txt"
echo "more: $RUN/report.md, $RUN/accuracy_against_n.png, $RUN/cases/cases.md, $RUN/score.json, $RUN/score_edges.json"
