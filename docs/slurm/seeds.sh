#!/bin/bash
# The same run with several seeds, each a task of an array, in folders run-0, run-1, ...:
#
#   sbatch --array=0-2 --cpus-per-task=8 seeds.sh particles.star template.cif run
#
#SBATCH --job-name=cryoatom-seeds
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
#SBATCH --requeue
##SBATCH --partition=... --account=... (take one # away)

particles=$1 template=$2 run=$3
shift 3

# Runs share the images in the form that training reads: one prepares them, the others wait for it.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    cryoatom train "$particles" --template "$template" --outdir "$run-$SLURM_ARRAY_TASK_ID" \
    --seed "$SLURM_ARRAY_TASK_ID" --cache "$run-cache" --load latest "$@"
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
