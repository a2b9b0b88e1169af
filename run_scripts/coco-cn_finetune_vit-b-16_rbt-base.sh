#!/usr/bin/env bash
# Chinese-CLIP ViT-B/16, fine-tuned on COCO-CN.
# Settings: recipes/coco-cn_finetune_vit-b-16_rbt-base.yaml and the top of train.sh.
#   bash run_scripts/coco-cn_finetune_vit-b-16_rbt-base.sh ${DATAPATH} [flags of cnclip train]
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
export DATASET=${DATASET:-COCO-CN}
export CONFIG=${CONFIG:-$here/recipes/coco-cn_finetune_vit-b-16_rbt-base.yaml}
exec bash "$here/train.sh" "$@"
