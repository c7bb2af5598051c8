# shellcheck shell=bash
# What the batch scripts and submit-sweep share. Sourced in the project's directory, with set -euo pipefail.

say() { printf '%s\n' "launcher: $*"; }

fail() { # a mistake of the user
    printf '%s\n' "error: $*" >&2
    exit 2
}

# ---------------------------------------------------------------- the site

read_site() { # sets PYTHON, RUNS, container, srun_options, in_step
    local site=launchers/site.env
    set +u # what sites source, and modules, may look at variables that are not set
    if [[ -e $site ]]; then
        # shellcheck source=/dev/null
        . "$site" || fail "$site: its last command failed"
    else
        say "there is no $site: defaults (to change them, start from $site.example)" >&2
    fi
    RUNS=${RUNS:-runs}
    read -rd '' -a container <<<"${CONTAINER_CMD:-}" || true # at the end of the text
    read -rd '' -a srun_options <<<"${SRUN_OPTIONS:-}" || true
    in_step=() # before a command of this script, where only a step of srun gets into the container (pyxis)
    if [[ -n ${SLURM_JOB_ID:-} && ${SRUN_OPTIONS:-} == *--container-image* ]]; then
        in_step=(srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpu-bind=none --export=ALL "${srun_options[@]}")
    fi
    if [[ -n ${MODULES:-} ]]; then
        command -v module >/dev/null || fail "MODULES in $site: this shell has no 'module'; source its file there first"
        # shellcheck disable=SC2086 # a list
        module load $MODULES || fail "MODULES in $site: cannot load $MODULES"
    fi
    set -u
    if ((${#container[@]} + ${#in_step[@]})); then
        PYTHON=${PYTHON:-python}
        return
    fi
    if [[ -z ${PYTHON:-} ]]; then
        PYTHON=python3
        [[ ! -x .venv/bin/python ]] || PYTHON=.venv/bin/python
    fi
    "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "dcgan_dist"))))' ||
        fail "$PYTHON has no torch or no dcgan_dist: make setup, or set PYTHON in $site (start from $site.example)"
}

tool() { # MODULE ARGUMENT... : a short command of ours, in the container if there is one
    "${in_step[@]}" "${container[@]}" "$PYTHON" -m "$@"
}

# ---------------------------------------------------------------- the job

# What a requeued job is called: in an array the bare id may be the whole array's.
job_name() { printf '%s\n' "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"; }

processes_per_node() { # as many as GPUs; without GPUs, as many as the tasks that were asked for, else one
    local gpus=${SLURM_GPUS_ON_NODE:-0} all=${SLURM_GPUS:-} tasks=${SLURM_NTASKS_PER_NODE:-1}
    local even='^([0-9]+)(\(x[0-9]+\))?$'
    [[ -z ${SLURM_NTASKS:-} ]] || tasks=$SLURM_TASKS_PER_NODE # with --exclusive alone it is the number of CPUs
    if [[ ! $tasks =~ $even ]] && { ((gpus == 0)) || [[ -n ${SLURM_GPUS_PER_TASK:-} ]]; }; then
        fail "$tasks tasks on the nodes: every node must have the same number; use --ntasks-per-node"
    elif ((gpus > 0)); then
        all=${all##*:} # of a100:4
        [[ -z $all ]] || ((all == gpus * SLURM_JOB_NUM_NODES)) ||
            fail "--gpus=$all on $SLURM_JOB_NUM_NODES nodes: every node must have the same number; use --gpus-per-node"
        printf '%s\n' "$gpus"
    else
        printf '%s\n' "${BASH_REMATCH[1]}"
    fi
}

prepare_job() { # sets nodes, processes, master, port, job; exports what launchers and trainers look at
    nodes=$SLURM_JOB_NUM_NODES
    processes=$(processes_per_node)
    job=$(job_name)
    read -r master < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # this script runs there
    port=$((20000 + SLURM_JOB_ID % 10000)) # below the ephemeral ones; tasks of an array have different ids
    while (: <"/dev/tcp/$master/$port") 2>/dev/null; do
        port=$((20000 + (port - 20000 + 1009) % 10000)) # somebody listens there
    done
    export DCGAN_EXPECT_WORLD_SIZE=$((nodes * processes))
    export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-110}
    export SLURM_EXPORT_ENV=ALL # sbatch --export=NONE would empty srun's environment too
    # one launcher a node gets all that the job has there, however that was asked for
    unset SLURM_CPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_NTASKS_PER_NODE SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_GPU
    step='' warned='' again=''
    trap on_warning USR2
}

on_warning() { # the signal of --signal, or of scancel --batch
    warned=1 again=1
    [[ -z $step ]] || kill -USR2 "$step" 2>/dev/null || true # srun passes it to all processes; it may just have ended
}

value_of() { # NAME ARGUMENT... : the value of the last --NAME VALUE or --NAME=VALUE
    local name=$1 found='' wanted='' argument flag
    shift
    for argument; do
        flag=${argument#--}
        if [[ -n $wanted ]]; then
            found=$argument wanted=''
        elif [[ $argument == --* && $(underscored "${flag%%=*}") == "$name" ]]; then
            if [[ $flag == *=* ]]; then found=${flag#*=}; else wanted=1; fi
        fi
    done
    printf '%s\n' "$found"
}

underscored() { printf '%s\n' "${1//-/_}"; }

# Which file there is; each one that is written is another.
written() { stat -c '%i %y' "$1" 2>/dev/null || true; } # FILE

# Whether the job was told to go, by a warning or a preemption, before the trainer could save: it was still starting.
was_cut_short() { # RUN_DIR BEFORE : what was written there before it started
    if [[ $(written "$1/status.json") != "$2" ]] && grep -qs '"state": "failed"' "$1/status.json"; then
        return 1
    fi
    [[ -n $warned ]] || was_preempted "$(scontrol show job --oneliner "$job")"
}

was_preempted() { # what scontrol says of the job : since it was last started
    [[ $1 =~ PreemptTime=([0-9][^ ]*) ]] || return 1
    local preempted=${BASH_REMATCH[1]}
    [[ $1 =~ StartTime=([0-9][^ ]*) && ! $preempted < ${BASH_REMATCH[1]} ]]
}

# ---------------------------------------------------------------- a run

# Trains in RUN_DIR with FLAGs; 0 when done. A run that was stopped and saved queues the job again and ends the script.
train() { # RUN_DIR FLAG...
    local run_dir=$1 code before marker
    shift
    before=$(written "$run_dir/status.json")
    marker=$(written "$run_dir/requeue") # of an earlier start, or of another job that trains there
    [[ -z $warned ]] || queue_again_unsaved "$run_dir"
    say "job $job: $nodes x $processes processes, rendezvous at $master:$port, run directory $run_dir"
    # torchrun and not accelerate launch; README.md says why
    # shellcheck disable=SC2016 # a node's number is known on the node alone
    srun --kill-on-bad-exit=1 --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpu-bind=none \
        "${srun_options[@]}" bash -c 'PET_NODE_RANK=$SLURM_NODEID exec "$@"' on-each-node \
        "${container[@]}" "$PYTHON" -m torch.distributed.run \
        --nnodes="$nodes" --nproc-per-node="$processes" --master-addr="$master" --master-port="$port" \
        --rdzv-id="$SLURM_JOB_ID" -m dcgan_dist.train "$@" --run_dir="$run_dir" &
    step=$!
    [[ -z $warned ]] || on_warning # between the lines above
    while again='' code=0 && { wait "$step" || code=$?; } && [[ -n $again ]]; do :; done # a trap ends wait early
    step=''
    if [[ -e $run_dir/requeue && $(written "$run_dir/requeue") != "$marker" ]]; then
        queue_again "$run_dir"
    elif ((code)) && was_cut_short "$run_dir" "$before"; then
        queue_again_unsaved "$run_dir"
    fi
    return "$code"
}

queue_again_unsaved() { # RUN_DIR : for a job that must go while the trainer starts; if that is always so, not for ever
    if [[ -n $warned ]] && ((${SLURM_RESTART_COUNT:-0} >= 3)); then
        say "error: warned of the time limit while $1 was starting, and queued again $SLURM_RESTART_COUNT times before:" \
            "--time must be longer than a start and the warning (--signal) together" >&2
        exit 1
    fi
    queue_again "$1"
}

queue_again() { # RUN_DIR
    say "$1 is to go on: queueing job $job again"
    if ! scontrol requeue "$job"; then
        say "Slurm refuses; go on with: sbatch launchers/train.sbatch --run_dir $1 --resume" >&2
        exit 1
    fi
    exit 0
}
