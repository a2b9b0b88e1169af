#!/usr/bin/env bash
# Chinese-CLIP ViT-B/16, fine-tuned on Flickr30k-CN.
# Settings: recipes/flickr30k_finetune_vit-b-16_rbt-base.yaml and the top of train.sh.
#   bash run_scripts/flickr30k_finetune_vit-b-16_rbt-base.sh ${DATAPATH} [flags of cnclip train]
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
export DATASET=${DATASET:-Flickr30k-CN}
export CONFIG=${CONFIG:-$here/recipes/flickr30k_finetune_vit-b-16_rbt-base.yaml}
exec bash "$here/train.sh" "$@"
