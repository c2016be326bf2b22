#!/usr/bin/env bash
# Trains on GPUs of a Slurm cluster. From the root of the checkout:
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 --time=24:00:00 \
#     scripts/launch_slurm.sh performer.train \
#     --gin_file=configs/performer/trembl_36layer_mlm.gin --workdir=/shared/runs/mlm
#
# The first word is the module, the others are its flags. Start as many tasks as
# a node has GPUs: on Slurm, JAX gives each process the one GPU whose number is
# the task's number on its node. For one process per node with all GPUs, ask for
# --ntasks-per-node=1 and export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7 first.
# The workdir must be on a file system that all nodes share.
#
# PYTHON names the interpreter; by default it is the environment of `make train`.

#SBATCH --job-name=attune
#SBATCH --output=attune-%j.log
#SBATCH --open-mode=append
# SIGTERM goes to the tasks two minutes before the time is over: the run saves a
# checkpoint and exits with code 0. The same command continues it.
#SBATCH --signal=TERM@120
# A job that is preempted is queued again, and so continues by itself.
#SBATCH --requeue

set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: sbatch [options] $0 MODULE [FLAGS ...]" >&2
  exit 2
fi
module=$1
shift

# Every task must see all GPUs of its node, as JAX chooses among them by number.
# One task that fails ends the others, which would wait for it for ever.
exec srun --gpu-bind=none --kill-on-bad-exit=1 \
  "${PYTHON:-.venv/bin/python}" -m "$module" --distributed "$@"
