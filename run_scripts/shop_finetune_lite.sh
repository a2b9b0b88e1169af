#!/usr/bin/env bash
# `lite` on product photos, also without a GPU. Data: DATAPATH/datasets/shop, in the MUGE layout.
# Settings: recipes/shop_finetune_lite.yaml and the top of train.sh.
#   bash run_scripts/shop_finetune_lite.sh ${DATAPATH} [flags of cnclip train]
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
export DATASET=${DATASET:-shop}
export CONFIG=${CONFIG:-$here/recipes/shop_finetune_lite.yaml}
exec bash "$here/train.sh" "$@"
