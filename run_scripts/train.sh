#!/usr/bin/env bash
# Train or fine-tune on the data sets below a folder.
#   bash run_scripts/train.sh ${DATAPATH} [--online-learning [--online-cache]] [flags of cnclip train]
# The settings below can be edited here or given as environment variables of the same name; an empty one is as
# CONFIG says, and a flag wins over both. On several machines, run the same command on each with its own RANK.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

# Machines and devices
GPUS_PER_NODE=${GPUS_PER_NODE:-}  # devices of each machine; empty: all that torch finds; 0: the CPU
WORKER_CNT=${WORKER_CNT:-1}       # machines
MASTER_ADDR=${MASTER_ADDR:-}      # address of the machine with RANK 0, where there are several
MASTER_PORT=${MASTER_PORT:-8514}  # a free port of that machine
RANK=${RANK:-0}                   # number of this machine, from 0

# Data: DATAPATH/datasets/DATASET/lmdb/{train,valid}, built from {train,valid}_imgs.tsv, _texts.jsonl if missing
DATASET=${DATASET:-MUGE}                     # names, with commas between
VAL_DATASET=${VAL_DATASET:-${DATASET%%,*}}   # the one to validate on
TRAIN_DATA=${TRAIN_DATA:-}                   # LMDB folders elsewhere, with commas between
VAL_DATA=${VAL_DATA:-}                       # an LMDB folder elsewhere; None: no validation

# Where to start: RESUME is a checkpoint whose weights are taken, by default the published one of the chosen
# towers in DATAPATH/pretrained_weights. MODEL is a name or file that brings its own towers (lite).
MODEL=${MODEL:-}
VISION_MODEL=${VISION_MODEL:-}
TEXT_MODEL=${TEXT_MODEL:-}
RESUME=${RESUME:-}

# Training and records
CONFIG=${CONFIG:-$ROOT/run_scripts/recipes/train.yaml}
NAME=${NAME:-}
LOGS=${LOGS:-}  # default: DATAPATH/experiments
BATCH_SIZE=${BATCH_SIZE:-}
VALID_BATCH_SIZE=${VALID_BATCH_SIZE:-}
ACCUM_FREQ=${ACCUM_FREQ:-}
CONTEXT_LENGTH=${CONTEXT_LENGTH:-}
LR=${LR:-}
WD=${WD:-}
WARMUP=${WARMUP:-}
MAX_EPOCHS=${MAX_EPOCHS:-}
MAX_STEPS=${MAX_STEPS:-}
VALID_STEP_INTERVAL=${VALID_STEP_INTERVAL:-}
VALID_EPOCH_INTERVAL=${VALID_EPOCH_INTERVAL:-}
PRECISION=${PRECISION:-}
USE_AUGMENT=${USE_AUGMENT:-}  # true or false
NUM_WORKERS=${NUM_WORKERS:-}
MASK_RATIO=${MASK_RATIO:-}
DISTILLATION=${DISTILLATION:-}  # true or false
TEACHER_MODEL_NAME=${TEACHER_MODEL_NAME:-}

# Online learning (only with --online-learning): where fresh pictures come from; docs/crawler.md says more
SOURCE=${SOURCE:-}                        # taobao, tbk, folder or practice-shop
FOLDER=${FOLDER:-}                        # SOURCE=folder: QUERY/*.jpg, or a manifest
SHOP_CATALOGUE=${SHOP_CATALOGUE:-}        # SOURCE=practice-shop: QUERY/*.jpg, what the shop sells
SHOP_URL=${SHOP_URL:-}                    # SOURCE=practice-shop: a shop that runs already
ACCEPT_SITE_RULES=${ACCEPT_SITE_RULES:-}  # true: you know the site's rules, and decided
MIN_GAP=${MIN_GAP:-}                      # seconds between searches
MAX_QUERIES=${MAX_QUERIES:-}              # searches in one run
HEADLESS=${HEADLESS:-}                    # true or false
STATE_DIR=${STATE_DIR:-}                  # where the account's session and pace are kept
KEEP_LOGIN=${KEEP_LOGIN:-}                # true: answer yes to "stay logged in?"
ONLINE_DIR=${ONLINE_DIR:-}                # cache of fresh pictures; default: DATAPATH/valid
ONLINE_BUDGET=${ONLINE_BUDGET:-}          # seconds a round may wait for pictures
ONLINE_PICTURES=${ONLINE_PICTURES:-}      # pictures per query and round

EXTRAS=${EXTRAS:-train}  # what to install besides the package
DRY_RUN=${DRY_RUN:-}     # 1: print the command, start nothing

usage() {
  cat <<'TEXT'
usage: bash run_scripts/train.sh DATAPATH [--online-learning [--online-cache]] [flags of cnclip train]
  DATAPATH           folder with datasets/NAME, pretrained_weights and experiments
  --online-learning  learn from fresh pictures during validation; what DATAPATH/valid lacks is crawled
  --online-cache     only from the pictures in DATAPATH/valid: no browser, no login
settings (environment variables, described at the top of the script):
  GPUS_PER_NODE WORKER_CNT MASTER_ADDR MASTER_PORT RANK, DATASET VAL_DATASET TRAIN_DATA VAL_DATA,
  MODEL VISION_MODEL TEXT_MODEL RESUME, CONFIG NAME LOGS BATCH_SIZE VALID_BATCH_SIZE ACCUM_FREQ CONTEXT_LENGTH
  LR WD WARMUP MAX_EPOCHS MAX_STEPS VALID_STEP_INTERVAL VALID_EPOCH_INTERVAL PRECISION USE_AUGMENT NUM_WORKERS
  MASK_RATIO DISTILLATION TEACHER_MODEL_NAME,
  SOURCE FOLDER SHOP_CATALOGUE SHOP_URL ACCEPT_SITE_RULES MIN_GAP MAX_QUERIES HEADLESS STATE_DIR KEEP_LOGIN
  ONLINE_DIR ONLINE_BUDGET ONLINE_PICTURES,
  DRY_RUN=1 (print the command only), EXTRAS (what to install)
TEXT
}
refuse() { printf 'error: %s\n' "$*" >&2; exit 2; }

for argument in "$@"; do
  case $argument in -h | --help) usage; exit 0 ;; esac
done
case ${1:-} in
  '' | -*) printf '%s\n' "error: DATAPATH is missing" >&2; usage >&2; exit 2 ;;
esac
[ -d "$1" ] || refuse "$1: no such folder"
datapath=$(cd -- "$1" && pwd -P)
shift
[ -f "$CONFIG" ] || refuse "CONFIG=$CONFIG: no such file"
for setting in GPUS_PER_NODE WORKER_CNT RANK MASTER_PORT; do
  [[ ${!setting} =~ ^(0|[1-9][0-9]*)?$ ]] || refuse "$setting=${!setting}: not a number"
done
if [ "$WORKER_CNT" -gt 1 ] && [ -z "$MASTER_ADDR" ]; then
  refuse "WORKER_CNT=$WORKER_CNT needs MASTER_ADDR, the address of the machine with RANK 0"
fi
[ "$RANK" -lt "$WORKER_CNT" ] || refuse "RANK=$RANK: must be below WORKER_CNT=$WORKER_CNT"

# flagged NAME ARGUMENT...: whether the arguments hold the flag --NAME.
flagged() {
  local name=$1 argument
  shift
  for argument in "$@"; do
    argument=${argument%%=*}
    if [ "${argument//_/-}" = "--$name" ]; then return 0; fi
  done
  return 1
}

# lmdb_of DATASET SPLIT: path of the LMDB, which is built first where only the MUGE files are there.
lmdb_of() {
  local folder=$datapath/datasets/$1
  if [ ! -e "$folder/lmdb/$2" ] && [ -f "$folder/$2_imgs.tsv" ] && [ -z "$DRY_RUN" ]; then
    [ "$WORKER_CNT" -eq 1 ] ||
      refuse "$folder/lmdb/$2: missing; build it first: cnclip build-lmdb --data-dir $folder --splits $2"
    step "building $folder/lmdb/$2" \
      "$PY" -m run_scripts.cli build-lmdb --data-dir "$folder" --splits "$2" >&2 || exit $?
  fi
  printf '%s' "$folder/lmdb/$2"
}

# published VISION_MODEL@TEXT_MODEL: file name of the published weights of these towers, if there are any.
published() {
  case $1 in
    ViT-B-16@RoBERTa-wwm-ext-base-chinese | ViT-L-14@RoBERTa-wwm-ext-base-chinese | \
      ViT-L-14-336@RoBERTa-wwm-ext-base-chinese | ViT-H-14@RoBERTa-wwm-ext-large-chinese)
      printf 'clip_cn_%s.pt' "$(printf '%s' "${1%%@*}" | tr '[:upper:]' '[:lower:]')" ;;
    RN50@RBT3-chinese) printf 'clip_cn_rn50.pt' ;;
  esac
}

here=$PWD
lock_checkout
# shellcheck disable=SC2086  # a list of words
install_extras $EXTRAS
unlock_checkout
cd -- "$here"  # what relative paths are relative to

# The file, then the settings, then the flags of the command line: the last one wins.
flags=("--config=$CONFIG" "--logs=${LOGS:-$datapath/experiments}")
if ! flagged train-data "$@"; then
  if [ -z "$TRAIN_DATA" ]; then
    IFS=, read -r -a names <<<"$DATASET"
    for name in "${names[@]}"; do TRAIN_DATA+=${TRAIN_DATA:+,}$(lmdb_of "$name" train); done
  fi
  flags+=("--train-data=$TRAIN_DATA")
fi
if ! flagged val-data "$@"; then
  if [ -z "$VAL_DATA" ]; then
    VAL_DATA=$(lmdb_of "$VAL_DATASET" valid)
    if [ ! -e "$VAL_DATA" ] && [ -z "$DRY_RUN" ]; then
      say "no validation: $VAL_DATA is not there"
      VAL_DATA=None
    fi
  fi
  flags+=("--val-data=$VAL_DATA")
fi
if [ "$VISION_MODEL" = EfficientNet-Lite0 ] && [ -z "$MODEL$RESUME" ] &&
  [ "${TEXT_MODEL:-RBT-tiny-chinese}" = RBT-tiny-chinese ]; then
  MODEL=lite
fi
if [ -n "$MODEL" ] || flagged model "$@"; then VISION_MODEL='' TEXT_MODEL=''; fi
# add_flags SETTING...: a flag for each setting that is not empty.
add_flags() {
  local setting
  for setting in "$@"; do
    [ -n "${!setting}" ] || continue
    flags+=("--$(printf '%s' "$setting" | tr '[:upper:]_' '[:lower:]-')=${!setting}")
  done
}
add_flags MODEL VISION_MODEL TEXT_MODEL RESUME NAME BATCH_SIZE VALID_BATCH_SIZE ACCUM_FREQ CONTEXT_LENGTH \
  LR WD WARMUP MAX_EPOCHS MAX_STEPS VALID_STEP_INTERVAL VALID_EPOCH_INTERVAL PRECISION USE_AUGMENT NUM_WORKERS \
  MASK_RATIO DISTILLATION TEACHER_MODEL_NAME
if [ "$GPUS_PER_NODE" = 0 ]; then flags+=(--device=cpu); fi
if [ -n "$RESUME" ]; then flags+=(--reset-data-offset --reset-optimizer); fi

# Everything is checked here once, so that a mistake is one line and not one per process.
program=(run_scripts.cli train)
settings=$("$PY" -m "${program[@]}" "${flags[@]}" "$@" --print-config) || exit $?
value_of() { printf '%s\n' "$settings" | sed -n "s/^$1: //p"; }
if [ "$(value_of online_learning)" = true ]; then
  ONLINE_DIR=${ONLINE_DIR:-$datapath/valid}
  add_flags SOURCE FOLDER SHOP_CATALOGUE SHOP_URL ACCEPT_SITE_RULES MIN_GAP MAX_QUERIES HEADLESS STATE_DIR \
    KEEP_LOGIN ONLINE_DIR ONLINE_BUDGET ONLINE_PICTURES
  settings=$("$PY" -m "${program[@]}" "${flags[@]}" "$@" --print-config) || exit $?
fi
if flagged print-config "$@"; then printf '%s\n' "$settings"; exit 0; fi
if [ "$(value_of online_learning)" = true ] && [ "$RANK" -eq 0 ] && [ -z "$DRY_RUN" ]; then
  "$PY" -m "${program[@]}" "${flags[@]}" "$@" --check-source || exit $?
fi
if [ "$(value_of model)$(value_of resume)$(value_of clip_weight_path)$(value_of bert_weight_path)" = \
  nullnullnullnull ]; then
  towers=$(value_of vision_model)@$(value_of text_model)
  weights=$datapath/pretrained_weights/$(published "$towers")
  if [ -f "$weights" ]; then
    say "starting from $weights"
    flags+=("--resume=$weights" --reset-data-offset --reset-optimizer)
  elif [ -n "$(published "$towers")" ]; then
    say "starting from scratch: $weights is not there" \
      "(cnclip models download ${towers%%@*} --folder ${weights%/*})"
  fi
fi

if [ -z "$GPUS_PER_NODE" ]; then
  GPUS_PER_NODE=$("$PY" -c 'import torch; print(torch.accelerator.device_count())')
fi
processes=$((GPUS_PER_NODE > 1 ? GPUS_PER_NODE : 1))
launcher=("$PY" -m torch.distributed.run)
# Stopping finishes the step and saves: torchrun would kill after 30 s what is still at it.
if [ $((processes * WORKER_CNT)) -gt 1 ] && [ -z "$DRY_RUN" ] &&
  "${launcher[@]}" --help | grep -q -e --shutdown-timeout; then
  launcher+=(--shutdown-timeout=900)
fi
# `--` keeps torchrun from taking our --logs for an abbreviation of its own --logs-specs.
if [ "$WORKER_CNT" -gt 1 ]; then
  command=("${launcher[@]}" "--nproc_per_node=$processes" "--nnodes=$WORKER_CNT" "--node_rank=$RANK"
    "--master_addr=$MASTER_ADDR" "--master_port=$MASTER_PORT" -m -- "${program[@]}")
elif [ "$processes" -gt 1 ]; then
  command=("${launcher[@]}" --standalone "--nproc_per_node=$processes" -m -- "${program[@]}")
else
  command=("$PY" -m "${program[@]}")
fi
command+=("${flags[@]}" "$@")
unset RANK WORLD_SIZE LOCAL_RANK  # of a cluster's scheduler: they count machines, ours count processes
if [ -n "$DRY_RUN" ]; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit 0
fi
exec "${command[@]}"
