#!/usr/bin/env bash
# From a bare clone: make .venv, install with the test extras, get Chromium if that is possible, then run
# ruff, mypy and the whole test suite. `--fast` leaves the slow tests out; other arguments go to pytest.
# Without Chromium the browser tests skip and say so, except with CI=true, where that is an error.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

missing_packages() {
  command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || printf 'chromium '
  command -v chromedriver >/dev/null 2>&1 || printf 'chromium-driver '
  [ -n "$(fc-list :lang=zh file 2>/dev/null)" ] || printf 'fontconfig fonts-noto-cjk '
}

install_browser() {
  local missing as_root=()
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
  if command -v apt-get >/dev/null 2>&1 && "${as_root[@]}" true 2>/dev/null; then
    # shellcheck disable=SC2086  # a list of words
    { "${as_root[@]}" apt-get update -qq &&
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends $missing; } >"$VENV/apt.log" 2>&1 ||
      say "    apt-get failed, see $VENV/apt.log"
  fi
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  [ "${CI:-}" != true ] || die "the browser tests need: $missing"
  say "    not installed: $missing(the browser tests will skip)"
}

pytest_args=()
for argument in "$@"; do
  if [ "$argument" = --fast ]; then pytest_args+=(-m "not slow"); else pytest_args+=("$argument"); fi
done

cd -- "$ROOT"
lock_checkout
install_extras demo train lite dev
step "browser" install_browser
unlock_checkout
step "ruff" "$PY" -m ruff check .
step "ruff format" "$PY" -m ruff format --check .
step "mypy" "$PY" -m mypy
say "==> pytest"
exec "$PY" -m pytest ${pytest_args[@]+"${pytest_args[@]}"}
