#!/usr/bin/env bash
# Write the best pictures for every query of a test split, by one model or an ensemble.
#   bash run_scripts/predict.sh ${DATAPATH} {single|ensemble|ensemble-last} {--online-learning|None} \
#     {--online-cache|None} MAX_EPOCHS model-1.pt … model-N.pt [flags of cnclip predict]
# The settings below can be edited here or given as environment variables of the same name; a flag wins over both.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

# Data: DATAPATH/datasets/DATASET/lmdb/SPLIT and SPLIT_texts.jsonl; built from SPLIT_imgs.tsv if missing
DATASET=${DATASET:-MUGE}
SPLIT=${SPLIT:-test}
TEXT_DATA=${TEXT_DATA:-}  # a file of texts elsewhere

# What is written, by default to DATAPATH/experiments/results and DATAPATH/npy_save
SCHEMA=${SCHEMA:-}        # query_id (query_id/item_ids, as Online-CNCLIP) or text_id (text_id/image_ids)
TOP_K=${TOP_K:-}          # pictures of a query
OUT=${OUT:-}              # folder for predictions
NPY_SAVE=${NPY_SAVE:-}    # folder for score matrices

# Ensembles
WEIGHTS=${WEIGHTS:-}      # equal, reference, numbers with commas between, or a file of cnclip ensemble fit
NORMALIZE=${NORMALIZE:-}  # how the scores of models are made comparable

# Online learning (only with --online-learning): pairs that keep it from forgetting, a labelled split that must
# not get worse, and where fresh pictures come from; docs/crawler.md says more
TRAIN_DATA=${TRAIN_DATA:-}                # default: DATAPATH/datasets/DATASET/lmdb/train
VAL_DATA=${VAL_DATA:-}                    # default: DATAPATH/datasets/DATASET/lmdb/valid, if it is there
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
ONLINE_DIR=${ONLINE_DIR:-}                # cache of fresh pictures; default: DATAPATH/test
ONLINE_BUDGET=${ONLINE_BUDGET:-}          # seconds an epoch may wait for pictures
ONLINE_PICTURES=${ONLINE_PICTURES:-}      # pictures per query and epoch

# How models run
BATCH_SIZE=${BATCH_SIZE:-}
CONTEXT_LENGTH=${CONTEXT_LENGTH:-}
DEVICE=${DEVICE:-}
DTYPE=${DTYPE:-}

EXTRAS=${EXTRAS:-train}  # what to install besides the package
DRY_RUN=${DRY_RUN:-}     # 1: print the command, start nothing

usage() {
  cat <<'TEXT'
usage: bash run_scripts/predict.sh DATAPATH {single|ensemble|ensemble-last} {--online-learning|None}
                                   {--online-cache|None} MAX_EPOCHS MODEL… [flags of cnclip predict]
  DATAPATH    folder with datasets/NAME, resume, experiments
  single      one MODEL; ensemble: any number; ensemble-last: the matrices in DATAPATH/npy_save_last, no MODEL
  --online-learning  first learn from fresh pictures of the queries; what DATAPATH/test lacks is crawled
  --online-cache     only from the pictures in DATAPATH/test: no browser, no login
  MAX_EPOCHS  epochs of online learning over the queries, picture 1 to 5 in turn
  MODEL       a file in DATAPATH/resume, a path, or a name (lite)
settings (environment variables, described at the top of the script):
  DATASET SPLIT TEXT_DATA, SCHEMA TOP_K OUT NPY_SAVE, WEIGHTS NORMALIZE, BATCH_SIZE CONTEXT_LENGTH DEVICE DTYPE,
  TRAIN_DATA VAL_DATA SOURCE FOLDER SHOP_CATALOGUE SHOP_URL ACCEPT_SITE_RULES MIN_GAP MAX_QUERIES HEADLESS
  STATE_DIR KEEP_LOGIN ONLINE_DIR ONLINE_BUDGET ONLINE_PICTURES,
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
mode=${2:-}
case $mode in
  single | ensemble | ensemble-last) ;;
  '') refuse "the mode is missing: single, ensemble or ensemble-last" ;;
  *) refuse "mode $mode: not single, ensemble or ensemble-last" ;;
esac
online=${3:-None} cache=${4:-None} max_epochs=${5:-1}
case $online in
  None | --online-learning | --online_learning) ;;
  *) refuse "argument 3 is $online, not --online-learning or None" ;;
esac
case $cache in
  None | --online-cache | --online_cache) ;;
  *) refuse "argument 4 is $cache, not --online-cache or None" ;;
esac
[[ $max_epochs =~ ^[1-9][0-9]*$ ]] || refuse "MAX_EPOCHS is $max_epochs, not a number above 0"
if [ "$online" != None ] && [ "$mode" != single ]; then refuse "--online-learning goes with single only"; fi
if [ "$cache" != None ] && [ "$online" = None ]; then refuse "--online-cache goes with --online-learning only"; fi
shift $(($# < 5 ? $# : 5))
models=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do
  models+=("$1")
  shift
done
case $mode in
  single) [ ${#models[@]} -eq 1 ] || refuse "single takes one MODEL, not ${#models[@]}" ;;
  ensemble) [ ${#models[@]} -gt 0 ] || refuse "ensemble takes at least one MODEL" ;;
  ensemble-last)
    if [ ${#models[@]} -gt 0 ]; then say "ensemble-last reads matrices: ${models[*]} not needed" >&2; fi
    models=() ;;
esac

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

here=$PWD
lock_checkout
# shellcheck disable=SC2086  # a list of words
install_extras $EXTRAS
unlock_checkout
cd -- "$here"  # what relative paths are relative to

# build SPLIT: its LMDB, where only the MUGE files are there.
folder=$datapath/datasets/$DATASET
build() {
  if [ ! -e "$folder/lmdb/$1" ] && [ -f "$folder/$1_imgs.tsv" ] && [ -z "$DRY_RUN" ]; then
    step "building $folder/lmdb/$1" \
      "$PY" -m run_scripts.cli build-lmdb --data-dir "$folder" --splits "$1" >&2 || exit $?
  fi
}
if [ "$mode" != ensemble-last ] && ! flagged data "$@"; then build "$SPLIT"; fi
if [ "$online" != None ]; then
  if [ -z "$TRAIN_DATA" ] && ! flagged train-data "$@"; then build train; fi
  if [ -z "$VAL_DATA" ] && ! flagged val-data "$@"; then build valid; fi
fi

flags=("--datapath=$datapath" "--dataset=$DATASET" "--split=$SPLIT")
settings=(SCHEMA TOP_K OUT)
case $mode in
  single) settings+=(TEXT_DATA NPY_SAVE BATCH_SIZE CONTEXT_LENGTH DEVICE DTYPE) ;;
  ensemble) settings+=(TEXT_DATA NPY_SAVE BATCH_SIZE CONTEXT_LENGTH DEVICE DTYPE WEIGHTS NORMALIZE) ;;
  ensemble-last) settings+=(NPY_SAVE WEIGHTS NORMALIZE) ;;
esac
if [ "$online" != None ]; then
  settings+=(TRAIN_DATA VAL_DATA SOURCE FOLDER SHOP_CATALOGUE SHOP_URL ACCEPT_SITE_RULES MIN_GAP MAX_QUERIES
    HEADLESS STATE_DIR KEEP_LOGIN ONLINE_DIR ONLINE_BUDGET ONLINE_PICTURES)
fi
for setting in "${settings[@]}"; do
  if [ -n "${!setting}" ]; then
    flags+=("--$(printf '%s' "$setting" | tr '[:upper:]_' '[:lower:]-')=${!setting}")
  fi
done
if [ "$online" != None ]; then flags+=(--online-learning "--max-epochs=$max_epochs"); fi
if [ "$cache" != None ]; then flags+=(--online-cache); fi

command=("$PY" -m run_scripts.cli predict "$mode")
if [ ${#models[@]} -gt 0 ]; then command+=("${models[@]}"); fi
command+=("${flags[@]}" "$@")
if [ -n "$DRY_RUN" ]; then
  printf '%q ' "${command[@]}"
  printf '\n'
  exit 0
fi
exec "${command[@]}"
