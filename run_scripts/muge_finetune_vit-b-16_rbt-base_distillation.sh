#!/usr/bin/env bash
# The same, learning from a larger model as well: a name (`cnclip models list`), a file or a folder.
#   bash run_scripts/muge_finetune_vit-b-16_rbt-base_distillation.sh ${DATAPATH} [flags of cnclip train]
set -euo pipefail
here=$(dirname -- "${BASH_SOURCE[0]}")
export DISTILLATION=${DISTILLATION:-true} TEACHER_MODEL_NAME=${TEACHER_MODEL_NAME:-ViT-L-14}
export NAME=${NAME:-muge_finetune_vit-b-16_roberta-base_bs128_8gpu_distillation}
exec bash "$here/muge_finetune_vit-b-16_rbt-base.sh" "$@"
