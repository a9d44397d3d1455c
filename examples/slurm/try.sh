#!/bin/bash
# Tries the jobs of this folder on a SLURM of its own: two nodes on this machine, over loopback, without GPUs.
#
# Needs root on Debian or Ubuntu with `apt-get install slurm-wlm munge`, and edm2 with its development tools
# (`make setup`, then activate .venv). Takes about ten minutes on two cores.
# usage: [IMAGES=64000] examples/slurm/try.sh [FOLDER]
#   FOLDER: for the project and all logs; default: a temporary one. What was tried there before is continued.
#   IMAGES: length of the training, a multiple of 6400; it must take about half a minute
set -euo pipefail

images=${IMAGES:-64000}
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(realpath -m "${1:-$(mktemp -d)}")
project=$folder/project
export SLURM_CONF=$folder/slurm.conf PYTHONPATH=$project OMP_NUM_THREADS=1

title() { printf '\n== %s\n' "$*"; }

for program in slurmctld slurmd munged sbatch dvc; do
    command -v $program >/dev/null || { echo "$program: not found. See the first lines of $0." >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "Expected root: munged and slurmd change users. Use sudo -E." >&2; exit 2; }

# --- the cluster

stop() {
    set +e
    scancel --user=root 2>/dev/null
    for _ in {1..40}; do
        [ -n "$(squeue --noheader 2>/dev/null)" ] || break
        sleep 1
    done
    for file in "$folder"/run/*.pid; do
        [ -e "$file" ] && kill "$(cat "$file")"
    done
    echo "SLURM is stopped; logs and project: $folder"
}

# linuxproc, none: without cgroups, which containers cannot write. config_overrides: more cores than there are.
# Two nodes on one host: a port, a spool folder and a pid file each (%n).
configure() {
    mkdir -p "$folder"/run "$folder"/log "$folder"/state "$folder"/spool/n1 "$folder"/spool/n2
    chmod 755 "$folder" "$folder/run" # munge wants folders that others cannot write
    cat >"$SLURM_CONF" <<-END
	ClusterName=try
	SlurmctldHost=$(hostname -s)(127.0.0.1)
	SlurmctldPort=26817
	SlurmUser=root
	AuthInfo=socket=$folder/run/munge.socket
	StateSaveLocation=$folder/state
	SlurmdSpoolDir=$folder/spool/%n
	SlurmctldPidFile=$folder/run/slurmctld.pid
	SlurmdPidFile=$folder/run/%n.pid
	SlurmctldLogFile=$folder/log/slurmctld.log
	SlurmdLogFile=$folder/log/%n.log
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	JobAcctGatherType=jobacct_gather/none
	MpiDefault=none
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core
	SlurmdParameters=config_overrides
	GresTypes=gpu
	KillWait=30
	PreemptType=preempt/partition_prio
	PreemptMode=REQUEUE
	NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26818 CPUs=4 Gres=gpu:2
	NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=26819 CPUs=4 Gres=gpu:2
	PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1
	PartitionName=urgent Nodes=n1,n2 PriorityTier=2
	END
    touch "$folder"/run/gpu{0,1} # SLURM counts GPUs by their files
    echo "Name=gpu File=$folder/run/gpu[0-1]" >"$folder/gres.conf"
}

start() {
    dd if=/dev/urandom of="$folder/run/munge.key" bs=128 count=1 status=none
    chmod 400 "$folder/run/munge.key"
    munged --force --key-file="$folder/run/munge.key" --socket="$folder/run/munge.socket" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/run/munge.seed"
    slurmctld
    slurmd -N n1
    slurmd -N n2
    for _ in {1..30}; do
        [ "$(sinfo --noheader --Node --states=idle --partition=main | wc -l)" = 2 ] && return
        sleep 1
    done
    echo "The nodes did not start; see $folder/log." >&2
    sinfo >&2
    exit 1
}

# --- the project

make_project() { # $1: changes of the tiny project's params, as JSON
    [ ! -e "$project/params.yaml" ] || return 0
    mkdir -p "$project"
    cp -r "$root"/{edm2,stages,examples,dvc.yaml,.dvcignore} "$project"
    (cd "$project" && dvc init -q --no-scm && dvc config cache.type hardlink,symlink,copy)
    PYTHONPATH=$root:$root/tests python - "$project" "$1" <<-END
	import json, pathlib, sys
	from tiny import TINY, write_params
	write_params(pathlib.Path(sys.argv[1], "params.yaml"), {**TINY, **json.loads(sys.argv[2])})
	END
}

finished() { # wait until the job $1 has ended; show the last $2 lines of its output; stop if it failed
    while [ -n "$(squeue --noheader --jobs="$1" 2>/dev/null)" ]; do
        sleep 1
    done
    scontrol show job "$1" | grep -oE '(JobState|Restarts|ExitCode|NodeList)=[^ ]*' | sort -u | tr '\n' ' '
    echo
    grep -hvE '^ *$|%\|' "$project"/slurm-"$1"*.out | tail -n "${2:-12}" || true
    ! scontrol show job "$1" | grep -o 'JobState=[^ ]*' | grep -qv COMPLETED
}

start_again() { # wait until the job $1 is requeued; let it start now and not in two minutes, as SLURM would
    local state
    while state=$(squeue --noheader --jobs="$1" --format=%T) && [ "$state" != PENDING ]; do
        [ -n "$state" ] || { echo "The job was complete too soon: set IMAGES higher." >&2; exit 1; }
        sleep 1
    done
    sleep 5 # a job that starts in the second in which it was ended is refused
    scontrol update JobId="$1" StartTime=now
}

next_checkpoint() { # wait until the training has written another checkpoint
    local before
    before=$(checkpoint)
    while [ "$(checkpoint)" = "$before" ]; do
        sleep 0.5
    done
    echo "checkpoint: $(checkpoint)"
}

checkpoint() { # the latest one
    find .state/train_diffusion-G-0 -maxdepth 2 -name "checkpoint-*" -printf '%f\n' 2>/dev/null | sort | tail -n 1 || true
}

# --- the jobs

trap stop EXIT
configure
start
title "SLURM $(sinfo --version | cut -d' ' -f2): two nodes on one host"
sinfo --Node --format='%N %P %T %c %G'

launch="srun --ntasks-per-node=1 python -m edm2.runtime.torchrun"
launch+=' --nnodes=$SLURM_NNODES --nproc_per_node=$SLURM_GPUS_ON_NODE'
launch+=' --rdzv_backend=c10d --rdzv_endpoint=$RENDEZVOUS --rdzv_id=$SLURM_JOB_ID'
make_project '{"launch": {"default": "python", "train_diffusion": "'"$launch"'"}, "runtime.checkpoint_seconds": 1,
    "diffusion.duration_nimg": '"$images"', "diffusion.log_nimg": 640, "diffusion.magnitudes_nimg": 6400,
    "ema.snapshot_nimg": '$((images / 10))'}'
cd "$project"
nodes=(--nodes=2 --gpus-per-node=1 --cpus-per-task=2)

title "pipeline.sbatch up to the latents"
job=$(sbatch --parsable "${nodes[@]}" examples/slurm/pipeline.sbatch encode_latents reference)
finished "$job"

title "train.sbatch: two nodes of one rank; its time is up, then an urgent job takes the nodes"
job=$(sbatch --parsable "${nodes[@]}" examples/slurm/train.sbatch G)
next_checkpoint
scancel --batch --signal=USR1 "$job" # what --signal=B:USR1@300 sends
start_again "$job"
next_checkpoint
urgent=$(sbatch --parsable --partition=urgent --nodes=2 --exclusive --wrap "sleep 1")
finished "$urgent" 1
start_again "$job"
finished "$job" 40

title "pipeline.sbatch to the networks: the training is complete, and published"
job=$(sbatch --parsable "${nodes[@]}" examples/slurm/pipeline.sbatch sweep_ema@G-0)
finished "$job"

title "evaluate.sbatch: an array of two jobs, then one that collects"
job=$(sbatch --parsable --array=0-1 --gpus-per-task=1 --cpus-per-task=2 examples/slurm/evaluate.sbatch G)
collect=$(sbatch --parsable --dependency="afterok:$job" "${nodes[@]}" examples/slurm/pipeline.sbatch)
finished "$job"
finished "$collect" 20

title "Another launcher runs nothing again"
sed -i 's/srun --ntasks-per-node=1/srun/' params.yaml
dvc status

title "Clean up"
edm2 clean --yes
