#!/usr/bin/env bash
# CLIP-RoBERTa: CLIP's image encoder and a Chinese RoBERTa, aligned on COCO-CN.
# Settings: recipes/coco_train_clip-roberta.yaml and the top of train.sh.
# The encoders are Hugging Face folders in DATAPATH/pretrained_weights, or others: VISION_MODEL=hf:…
# One device: GPUS_PER_NODE=1. Eight: GPUS_PER_NODE=8. Four machines: WORKER_CNT=4 MASTER_ADDR=…, RANK=0 to 3.
#   bash run_scripts/coco_train_clip-roberta.sh ${DATAPATH} [flags of cnclip train]
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
export DATASET=${DATASET:-COCO-CN}
export CONFIG=${CONFIG:-$here/recipes/coco_train_clip-roberta.yaml}
weights=${1:-}/pretrained_weights
export EXTRAS=${EXTRAS:-train zoo}
export VISION_MODEL=${VISION_MODEL:-hf:$weights/clip-vit-base-patch32}
export TEXT_MODEL=${TEXT_MODEL:-hf:$weights/chinese-roberta-wwm-ext}
exec bash "$here/train.sh" "$@"
