# Sourced by the jobs of this folder: `run COMMAND` runs a command as a terminal would, so that the job ends well.
#
# SLURM sends the job SIGUSR1 before its time is up (#SBATCH --signal=B:USR1@300). It becomes a Ctrl-C for the
# command: a training saves a checkpoint, other stages keep what is complete. Then the job goes back into the queue,
# and continues when its turn comes. Preempted jobs and those of failed nodes are requeued by SLURM itself
# (#SBATCH --requeue).

export SLURM_DISABLE_STATUS=1 # srun passes on the first Ctrl-C; by default it only prints a status

run() {
    local child status stopped=0
    set -m # the command is a process group of its own, as in a terminal
    "$@" &
    child=$!
    trap 'stopped=1; kill -INT -- "-$child"' USR1
    while :; do # a trap ends `wait`
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    if ((stopped)); then
        echo "stopped before the end of the job's time (status $status); requeued"
        scontrol requeue "$SLURM_JOB_ID"
        sleep infinity # until SLURM ends this run of the job
    fi
    return "$status"
}
