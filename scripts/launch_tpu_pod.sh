#!/usr/bin/env bash
# Trains on all hosts of a TPU pod slice. From your own machine:
#
#   scripts/launch_tpu_pod.sh my-pod us-central2-b performer.train \
#     --gin_file=configs/performer/trembl_36layer_mlm.gin --workdir=/mnt/runs/mlm
#
# The words are the name of the slice, its zone, the module and its flags. Each
# host needs the checkout in FOLDER (default: attune, in the home folder) with
# the environment `.venv` and the extra `tpu`; install it once on all hosts:
#
#   gcloud compute tpus tpu-vm ssh my-pod --zone=us-central2-b --worker=all \
#     --command='git clone URL attune && cd attune && python3 -m venv .venv &&
#       .venv/bin/pip install -c requirements.txt -e ".[tpu,report]"'
#
# All hosts must run the same command, as they compute each step together. The
# workdir must be a folder of a file system that all of them mount; URLs are not
# supported. PROJECT names the cloud project, if it is not the default one. The
# same command continues an interrupted run.

set -euo pipefail

if [[ $# -lt 3 ]]; then
  echo "usage: $0 NAME ZONE MODULE [FLAGS ...]" >&2
  exit 2
fi
name=$1 zone=$2 module=$3
shift 3

# Quoted for the shell of the hosts: flags such as 'STEPS = 100' have spaces.
printf -v command '%q ' .venv/bin/python -m "$module" --distributed "$@"
printf -v folder '%q' "${FOLDER:-attune}"

exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  ${PROJECT:+--project="$PROJECT"} --command="cd $folder && $command"
