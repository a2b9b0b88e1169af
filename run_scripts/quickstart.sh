#!/usr/bin/env bash
# From a bare clone to a page that searches pictures in Chinese. Installs into .venv, builds the demo gallery
# (or one of your own pictures), answers one query, then serves. Every step is skipped when it is done already.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

usage() {
  cat <<'TEXT'
usage: bash run_scripts/quickstart.sh [--no-serve] [--port 8000] [--images DIR] [--query TEXT]
  --no-serve     stop after the sample query
  --port PORT    where to serve the page on 127.0.0.1 (default 8000)
  --images DIR   index your own pictures instead of the demo
  --query TEXT   the sample query
environment: PYTHON (interpreter), TORCH_INDEX_URL (an index with a smaller torch build), pip's own PIP_*
TEXT
}
bad_usage() { printf '%s\n' "quickstart: $*" >&2; usage >&2; exit 2; }

serve=1 port=8000 images="" query=""
while [ $# -gt 0 ]; do
  case $1 in
    --no-serve) serve=0 ;;
    --port | --images | --query)
      [ $# -ge 2 ] || bad_usage "$1 needs a value"
      case $1 in --port) port=$2 ;; --images) images=$2 ;; --query) query=$2 ;; esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) bad_usage "unknown argument: $1" ;;
  esac
  shift
done
if ! [[ $port =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
  bad_usage "--port $port: not 1 to 65535"
fi
if [ -n "$images" ]; then
  [ -d "$images" ] || bad_usage "--images $images: no such folder"
  images=$(cd -- "$images" && pwd -P)
fi

cd -- "$ROOT"
cnclip() { "$PY" -m run_scripts.cli "$@"; }

# Vectors of other weights cannot be searched with these: such a gallery steps aside and is made again.
check_weights() {
  local gallery=$1 weights
  weights=$(cksum <cnclip/weights/lite.safetensors)
  if [ -e "$gallery" ] && [ "$(cat -- "$gallery.weights" 2>/dev/null)" != "$weights" ]; then
    rm -rf -- "$gallery.old"
    mv -- "$gallery" "$gallery.old"
    rm -f -- "$gallery.catalogue"
    say "    $gallery was made with other weights: kept as $gallery.old, made again"
  fi
  printf '%s\n' "$weights" >"$gallery.weights"
}

lock_checkout
install_extras demo
mkdir -p demo
if [ -n "$images" ]; then
  # a gallery per folder, so that two folders never mix
  gallery="demo/gallery-$(printf '%s' "$images" | cksum | cut -d ' ' -f 1)"
  sheet="$gallery.png"
  query=${query:-红色连衣裙}
  check_weights "$gallery"
  step "indexing $images" cnclip index "$images" --gallery "$gallery"
else
  gallery=demo/gallery sheet=demo/sheet.png
  query=${query:-动物}
  step "drawing OpenMoji pictures" "$PY" preprocess/openmoji.py --out demo/openmoji
  check_weights "$gallery"
  catalogue=$(cksum <demo/openmoji/catalogue.jsonl)
  # indexing again would change nothing, but it loads the model to find that out
  if [ ! -f "$gallery/manifest.json" ] || [ "$(cat -- "$gallery.catalogue" 2>/dev/null)" != "$catalogue" ]; then
    step "indexing them" cnclip index demo/openmoji/catalogue.jsonl --gallery "$gallery"
    printf '%s\n' "$catalogue" >"$gallery.catalogue"
  fi
fi
step "searching: $query" cnclip search "$query" --gallery "$gallery" --sheet "$sheet"
say "    contact sheet: $ROOT/$sheet"
say "    ready after $SECONDS s"
unlock_checkout
[ "$serve" -eq 1 ] || exit 0
say "==> serving http://127.0.0.1:$port  (Ctrl-C stops)"
exec "$PY" -m run_scripts.cli serve --gallery "$gallery" --port "$port"
