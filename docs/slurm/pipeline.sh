#!/bin/bash
# Training, and when it has ended well, the analysis and the comparison with a known truth, as jobs that depend on it.
# This is no batch script: run it where you would type sbatch.
#
#   RESOURCES="--gpus=1 --cpus-per-task=8 --time=08:00:00" AFTER="--cpus-per-task=4 --time=01:00:00" \
#       TRAIN="--poses esl" pipeline.sh particles.star template.cif run [--gt traj.dcd --gt-top traj.cif --labels frames.txt]
#
# TRAIN has more options of `cryoatom train`, RESOURCES and AFTER those of sbatch for the training and for what follows it.
#
set -e
here=$(dirname "$(readlink -f "$0")")
particles=$1 template=$2 run=$3
shift 3

# shellcheck disable=SC2086 # several words
training=$(sbatch --parsable $RESOURCES "$here/train.sh" "$particles" "$template" "$run" --no-analysis $TRAIN)
after="--dependency=afterok:$training --kill-on-invalid-dep=yes $AFTER"
sbatch --parsable $after --job-name=cryoatom-analyze --wrap "$(printf '%q ' cryoatom analyze "$run")"
if [ "$#" -gt 0 ]; then
    sbatch --parsable $after --job-name=cryoatom-eval --wrap "$(printf '%q ' cryoatom eval "$run" "$@")"
fi
