#!/usr/bin/env bash
# ZeroVL (Cui et al. 2022): a pretrained ViT-B/16 and a pretrained BERT, aligned on several data sets.
# Settings: recipes/zerovl_pretrain_vit-b-16_bert-base.yaml and the top of train.sh.
# The encoders are Hugging Face folders in DATAPATH/pretrained_weights, or others: VISION_MODEL=hf:…
#   bash run_scripts/zerovl_pretrain_vit-b-16_bert-base.sh ${DATAPATH} [flags of cnclip train]
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
export DATASET=${DATASET:-SBU,CC3M} VAL_DATASET=${VAL_DATASET:-COCO-CN}
export CONFIG=${CONFIG:-$here/recipes/zerovl_pretrain_vit-b-16_bert-base.yaml}
weights=${1:-}/pretrained_weights
export EXTRAS=${EXTRAS:-train zoo}
export VISION_MODEL=${VISION_MODEL:-hf:$weights/vit-base-patch16-224-in21k}
export TEXT_MODEL=${TEXT_MODEL:-hf:$weights/bert-base-chinese}
exec bash "$here/train.sh" "$@"
