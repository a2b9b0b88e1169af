#!/usr/bin/env bash
# The same with FLIP (Li et al. 2023): half of the patches are left out in training, for about twice the speed.
#   bash run_scripts/muge_finetune_vit-b-16_rbt-base_flip.sh ${DATAPATH} [flags of cnclip train]
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
export MASK_RATIO=${MASK_RATIO:-0.5}
export NAME=${NAME:-muge_finetune_vit-b-16_roberta-base_bs128_8gpu_flip}
exec bash "$here/muge_finetune_vit-b-16_rbt-base.sh" "$@"
