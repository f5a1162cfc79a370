#!/usr/bin/env bash
# Make .venv and install what is missing into it; a second call returns at once. Called by quickstart.sh and run_tests.sh.
set -euo pipefail
cd "$(dirname "$0")"
STAMP=.venv/installed-$(cksum <pyproject.toml | cut -d' ' -f1)
[ -e "$STAMP" ] && exit 0

BUILD=cpu # the policy server's build: CUDA on NVIDIA machines, CPU elsewhere
if nvidia-smi -L >/dev/null 2>&1; then BUILD=gpu; fi
echo "installing the $BUILD stack into .venv (about 6 GB; 1 to 5 minutes)"
.venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear .venv # --clear: one cut short is made anew
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
.venv/bin/uv pip install --quiet --python .venv/bin/python -e ".[$BUILD,dev,demo]"
touch "$STAMP"
