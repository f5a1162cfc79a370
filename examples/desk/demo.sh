#!/usr/bin/env bash
# The page of eval/demo.py on the policy and the PRM of quickstart.sh, with the desk problems as examples.
#
#   bash examples/desk/demo.sh            opens http://127.0.0.1:7860; Ctrl-C ends it
#   bash examples/desk/demo.sh --page_port 8080    flags of eval/demo.py
#
# Needs no network.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1:-} in -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' examples/desk/demo.sh; exit ;; esac
source examples/desk/common.sh
STUDY=${STUDY:-runs/desk}
need_study "$STUDY"
bash install.sh
with_server "$STUDY/policy" "$STUDY/logs/demo_server.log" "$PYTHON" eval/demo.py --model policy \
  --checkpoint "$STUDY/prm_plain" --examples "$STUDY/data/test.json" --repetition_penalty 1.0 --max_new_tokens 160 \
  --open "$@"
