# Sourced by the shell scripts, with ROOT set: how they refuse, what they try first, and PYTHON, which is the active Python,
# unless it lacks this checkout and .venv is there.
fail() {
  echo "error: $*" >&2
  exit 2
}

check_node() { # which of the machines is this one?
  [ "$NODE_RANK" -ge 0 ] 2>/dev/null && [ "$NODE_RANK" -lt "$NNODES" ] 2>/dev/null ||
    fail "NODE_RANK=$NODE_RANK: must be a number from 0 to NNODES - 1 (NNODES=$NNODES)"
}

check_first() { # a worker's command: its flags and input are read before a server is started for it, which takes minutes
  MM_PRM_CHECK=1 POLICY_ENDPOINT=http://127.0.0.1:$PORT/v1 "$@" >/dev/null || exit $?
}

if [ -z "${PYTHON:-}" ]; then
  PYTHON=python code=0
  python -Ic 'import importlib.util, os, sys
found = importlib.util.find_spec("mm_prm")
sys.exit(0 if found and os.path.samefile(found.submodule_search_locations[0], sys.argv[1]) else 64)' \
    "$ROOT/mm_prm" >/dev/null 2>&1 || code=$?
  case $code in
    64 | 127) [ ! -x "$ROOT/.venv/bin/python" ] || PYTHON=$ROOT/.venv/bin/python ;;
  esac
fi
command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON: not found; run bash install.sh, or name an interpreter"
