# Sourced by the scripts beside it: finds a Python, makes .venv, installs into it, and does each only once.
# shellcheck shell=bash
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV="$ROOT/.venv"
PY="$VENV/bin/python"
INSTALL_LOG="$VENV/install.log"

# glibc hands large activations back to the kernel after every operation, and the page faults then cost
# more than the arithmetic: keeping the memory makes embedding on a CPU several times faster.
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:--1}
export MALLOC_TOP_PAD_=${MALLOC_TOP_PAD_:-268435456}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "error: $1" >&2; exit "${2:-1}"; }

# step LABEL COMMAND...: run it, then say how long it took.
step() {
  local label=$1 started=$SECONDS
  shift
  say "==> $label"
  "$@" || return $?
  say "    $((SECONDS - started)) s"
}

# One run at a time per checkout: the lock is on a file that is there anyway, so nothing is left behind.
lock_checkout() {
  command -v flock >/dev/null 2>&1 || return 0
  exec 9<"$ROOT/pyproject.toml"
  flock -n 9 || { say "another run is at work in this folder, waiting for it"; flock 9; }
}
unlock_checkout() { exec 9<&-; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if is_new_enough "$candidate"; then
      command -v -- "$candidate"
      return 0
    fi
  done
  return 1
}

# The same venv is used again only if its Python is new enough and has pip: one that was interrupted in the
# making, or whose Python was removed, is made again.
make_venv() {
  if is_new_enough "$PY" && "$PY" -m pip --version >/dev/null 2>&1; then return 0; fi
  local python version
  python=$(find_python) || die "Python 3.10 or newer is needed, found: $(python3 --version 2>&1 || echo none)"
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    die "$python cannot make virtual environments: apt-get install python$version-venv (or python3-venv)"
  step "making .venv with Python $version" "$python" -m venv --clear "$VENV" ||
    die "python -m venv failed; is there room in $ROOT?"
}

run_pip() {
  "$PY" -m pip install --quiet "$@" >>"$INSTALL_LOG" 2>&1 && return 0
  tail -n 15 "$INSTALL_LOG" >&2
  if grep -q -E 'NewConnectionError|name resolution|NameResolutionError|unreachable|Connection refused|timed out|ProxyError' \
    "$INSTALL_LOG"; then
    die "pip could not reach the package index: is there network? (PIP_INDEX_URL and PIP_FIND_LINKS choose another)"
  fi
  die "pip failed, see $INSTALL_LOG"
}

# What an extra's stamp must say to skip pip: the same requirements, in the same place, for the same Python.
requirements_hash() {
  { cat -- "$ROOT/pyproject.toml" "$ROOT/constraints.txt"; say "$ROOT"; "$PY" --version; } | cksum
}

# install_extras EXTRA...: the package and these extras, at the versions of constraints.txt.
install_extras() {
  local wanted extra missing=""
  make_venv
  wanted=$(requirements_hash)
  for extra in "$@"; do
    [ "$(cat -- "$VENV/.installed-$extra" 2>/dev/null)" = "$wanted" ] || missing=1
  done
  [ -n "$missing" ] || return 0
  local extras
  extras=$(IFS=,; printf '%s' "$*")
  : >"$INSTALL_LOG"
  cd -- "$ROOT"
  if [ -n "${TORCH_INDEX_URL:-}" ]; then
    step "installing torch from TORCH_INDEX_URL" run_pip --index-url "$TORCH_INDEX_URL" -c constraints.txt torch
  fi
  step "installing packages [$extras] (the first time takes minutes)" run_pip -c constraints.txt -e ".[$extras]"
  for extra in "$@"; do printf '%s\n' "$wanted" >"$VENV/.installed-$extra"; done
}
