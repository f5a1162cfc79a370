#!/usr/bin/env bash
# Does a PRM find more while the policy writes than afterwards? Every method of guided_search.py at desk scale, against
# Best-of-N at equal cost: docs/desk_search.md.
#
#   bash examples/desk/search.sh      one to two hours on 2 CPU cores, after quickstart.sh; resumable
#
# Two policies (teachers that slip in 60 and in 30 % of their solutions), three PRMs (training seeds, from the rollouts of
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

RUN=${DESK_RUN:-runs/desk_search} STUDY=${STUDY:-runs/desk}
DATA=$RUN/data
NUMBERS=${NUMBERS:-16 4 64} SEEDS=${SEEDS:-0 1 2} POLICIES=${POLICIES:-slips60 slips30}

list_searches() { # method, N, PRM's seed. Greedy with N = 4 is dvts, adaptive with N = 4 is best_of_n
  local number method seed
  for seed in $SEEDS; do
    for number in $NUMBERS; do
      for method in best_of_n beam annealed dvts greedy reject adaptive; do
        case $method-$number in greedy-4 | adaptive-4) ;; *) echo "$method $number $seed" ;; esac
      done
    done
  done
  for number in 1 2 8 32; do echo "best_of_n $number ${SEEDS%% *}"; done # what it costs in between
}

search() { # policy, method, N, PRM's seed
  local output=$RUN/$1/$2-$3-$4.json
  stage "$1: $2, N = $3, PRM $4" "$output" "$PYTHON" eval/guided_search.py --data "$DATA/test.json" --method "$2" \
    --candidates "$3" --max_steps 12 --model policy --checkpoint "$RUN/prm_$4" "${DRAW[@]}" --concurrency 64 \
    --output_file "$output"
}

searches_left() { # policy
  local method number seed
  list_searches | while read -r method number seed; do
    [ -e "$RUN/$1/$method-$number-$seed.json" ] || echo "$method $number $seed"
  done
}

draw() { # everything of one policy, beside its server
  local method number seed
  while read -r method number seed <&3; do
    search "$1" "$method" "$number" "$seed"
  done 3< <(searches_left "$1")
}

if [ "${1:-}" = --draw ]; then
  draw "$2"
  exit
fi

bash install.sh
need_study "$STUDY"
mkdir -p "$RUN"
stage "problems with pictures" "$DATA/sft_meta.json" "$PYTHON" examples/desk/make_problems.py --output_dir "$DATA" \
  --seed 7 --slip_rate 0.3 --annotate 0 --dev 0 --test 60
stage "slips30: the policy (90 s)" "$RUN/slips30/policy/train_results.json" \
  train_policy "$DATA/sft_meta.json" "$RUN/slips30/policy"
mkdir -p "$RUN/slips60"
ln -sfn "$PWD/$STUDY/policy" "$RUN/slips60/policy"
for seed in $SEEDS; do
  stage "PRM $seed (2 minutes)" "$RUN/prm_$seed/train_results.json" train_prm "$STUDY/policy" \
    "$STUDY/prm_plain_meta.json" "$RUN/prm_$seed" 2 5e-4 --seed "$seed" --report_to none
  stage "PRM $seed on dev" "$RUN/dev_$seed.json" "$PYTHON" eval/prm/evaluate_prm.py --checkpoint "$RUN/prm_$seed" \
    --input_file "$STUDY/rollouts_dev.json" --output_file "$RUN/dev_$seed.json"
done
for policy in $POLICIES; do
  [ -z "$(searches_left "$policy")" ] ||
    with_server "$RUN/$policy/policy" "$RUN/server_$policy.log" bash $SELF --draw "$policy"
done
"$PYTHON" examples/desk/search_study.py --run_dir "$RUN"
