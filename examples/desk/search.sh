#!/usr/bin/env bash
# Does a PRM find more while the policy writes than afterwards? Every method of guided_search.py at desk scale, against
# Best-of-N at equal cost: docs/desk_search.md.
#
#   bash examples/desk/search.sh      three to four hours on 2 CPU cores, after quickstart.sh; resumable
#
# Two policies (teachers that slip in 60 and in 30 % of their solutions), three PRMs (training seeds, from the trees of
# the first policy), N = 4, 16, 64. search_study.py makes tables and figure of what is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
SELF=examples/desk/search.sh
case ${1:-} in
  '' | --draw) ;;
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$SELF"; exit ;;
  *) echo "error: $1: search.sh takes no arguments" >&2; exit 2 ;;
esac
source examples/desk/common.sh

RUN=${DESK_RUN:-runs/desk_search} STUDY=runs/desk
DATA=$RUN/data
NUMBERS=${NUMBERS:-16 4 64} SEEDS=${SEEDS:-0 1 2} POLICIES=${POLICIES:-slips60 slips30}

# Method, flags; `annealed` narrows from about N/4 prefixes to one or two
flags_of() { # method, N
  case $1 in
    best_of_n) echo "--branch $2" ;;
    annealed) case $2 in 4) echo "--beam 1" ;; 16) echo "--beam 4:2:1" ;; *) echo "--beam 16:8:4:2" ;; esac ;;
    *) echo "--branch 4" ;;
  esac
}

search() { # policy, method, N, PRM's seed
  local output=$RUN/$1/$2-$3-$4.json
  # shellcheck disable=SC2046  # a list of flags
  stage "$1: $2, N = $3, PRM $4" "$output" "$PYTHON" eval/guided_search.py --data "$DATA/test.json" --method "$2" \
    --candidates "$3" $(flags_of "$2" "$3") --max_steps 12 --model policy --checkpoint "$RUN/prm_$4" \
    "${DRAW[@]}" --concurrency 64 --output_file "$output"
}

draw() { # everything of one policy, beside its server
  local number method seed
  for seed in $SEEDS; do
    for number in $NUMBERS; do
      for method in best_of_n beam annealed dvts greedy reject adaptive; do
        search "$1" "$method" "$number" "$seed"
      done
    done
  done
}

if [ "${1:-}" = --draw ]; then
  draw "$2"
  exit
fi

bash install.sh
[ -e "$STUDY/prm_rollouts/train_results.json" ] ||
  { echo "error: $STUDY holds no finished study: run quickstart.sh first" >&2; exit 2; }
mkdir -p "$RUN"
stage "problems with pictures" "$DATA/sft_meta.json" "$PYTHON" examples/desk/make_problems.py --output_dir "$DATA" \
  --seed 7 --slip_rate 0.3 --annotate 0 --dev 0 --test 150
stage "slips30: the policy (90 s)" "$RUN/slips30/policy/train_results.json" \
  train_policy "$DATA/sft_meta.json" "$RUN/slips30/policy"
mkdir -p "$RUN/slips60"
ln -sfn "$PWD/$STUDY/policy" "$RUN/slips60/policy"
for seed in $SEEDS; do
  stage "PRM $seed (2 minutes)" "$RUN/prm_$seed/train_results.json" train_prm "$STUDY/policy" \
    "$STUDY/prm_rollouts_meta.json" "$RUN/prm_$seed" 2 5e-4 --seed "$seed" --report_to none
  stage "PRM $seed on dev" "$RUN/dev_$seed.json" "$PYTHON" eval/prm/evaluate_prm.py --checkpoint "$RUN/prm_$seed" \
    --input_file "$STUDY/rollouts_dev.json" --output_file "$RUN/dev_$seed.json"
done
for policy in $POLICIES; do
  stage "$policy: searching" "$RUN/$policy/searched.done" with_server "$RUN/$policy/policy" "$RUN/server_$policy.log" \
    bash $SELF --draw "$policy"
  touch "$RUN/$policy/searched.done"
done
"$PYTHON" examples/desk/search_study.py --run_dir "$RUN"
