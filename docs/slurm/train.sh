#!/bin/bash
# One training run, on one core or on the GPUs of several nodes; sbatch is told which:
#
#   sbatch --cpus-per-task=8 train.sh particles.star template.cif run
#   sbatch --gpus=1 --cpus-per-task=8 train.sh particles.star template.cif run
#   sbatch --ntasks=4 --gpus-per-task=1 --cpus-per-task=8 train.sh particles.star template.cif run
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 --cpus-per-task=8 train.sh particles.star template.cif run
#
# More options of `cryoatom train` may follow. Give --time and --mem (or --mem-per-cpu) as your cluster wants them.
#
#SBATCH --job-name=cryoatom
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
#SBATCH --requeue
##SBATCH --partition=... --account=... (take one # away)

# Where cryoatom is, unless sbatch is called in its environment: source /path/to/venv/bin/activate
particles=$1 template=$2 run=$3
shift 3

# Each task is a rank of the run. The first time there is no checkpoint to load, and it starts anew.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    cryoatom train "$particles" --template "$template" --outdir "$run" --load latest "$@"
code=$?
if [ "$code" -eq 75 ]; then # stopped by the time limit, or to make room: queue it again, to go on from there
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
