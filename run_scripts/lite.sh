#!/usr/bin/env bash
# Make the embedded model again: bash run_scripts/lite.sh DATA WORK
#   DATA  shop photos with queries, train and valid split (preprocess/shop.py makes them), MUGE files or LMDB
#   WORK  folder for pictures, corpus and checkpoints; run the command again to resume
# Writes WORK/lite.safetensors. The settings are cnclip/configs/recipes/lite.json.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

if [ $# -ne 2 ]; then
  sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
[ -d "$1" ] || die "$1: no such folder"
mkdir -p -- "$2"
data=$(cd -- "$1" && pwd -P) work=$(cd -- "$2" && pwd -P)

cd -- "$ROOT"
lock_checkout
install_extras demo lite
unlock_checkout
queries=$data/train_texts.jsonl
[ -f "$queries" ] || die "$queries: missing (the corpus is built around its queries)"
step "drawing OpenMoji pictures" "$PY" preprocess/openmoji.py --out "$work/openmoji"
if [ ! -f "$work/corpus/texts.txt" ]; then
  step "embedding the corpus" "$PY" -m preprocess.lite_corpus --queries "$queries" --out "$work/corpus"
fi
exec "$PY" -m cnclip.training.lite_recipe --data "$data" --emoji "$work/openmoji" --corpus "$work/corpus" \
  --work "$work" --out "$work/lite.safetensors"
