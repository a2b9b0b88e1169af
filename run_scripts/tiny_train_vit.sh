#!/usr/bin/env bash
# The whole of training in a minute, on one CPU, without any data: draws coloured shapes with Chinese names,
# builds their LMDB, trains a tiny ViT and a tiny BERT from scratch, and validates them.
#   bash run_scripts/tiny_train_vit.sh [FOLDER] [flags of cnclip train]    (without FOLDER: a temporary one)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in
  -h | --help) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  '' | -*) folder=$(mktemp -d) ;;
  *) folder=$1; shift ;;
esac
export DATASET=shapes GPUS_PER_NODE=${GPUS_PER_NODE:-0}
export CONFIG=${CONFIG:-$ROOT/run_scripts/recipes/tiny_train_vit.yaml}

lock_checkout
install_extras train
unlock_checkout
step "drawing shapes into $folder" "$PY" -m preprocess.shapes --out "$folder/datasets/shapes"
exec bash "$ROOT/run_scripts/train.sh" "$folder" "$@"
