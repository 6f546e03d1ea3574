# shellcheck shell=bash
# Shared by the templates. Arguments of a job: a file with one stage folder per line (each task takes its own line), a
# bash file to source first (may be empty), and the container command. Nothing is expanded: names may have spaces or $().
#
#   signal       USR1: the time limit is near                       TERM: the job is cancelled or preempted
#   sft, train   save, requeue                                      save; Slurm itself requeues a preempted job
#   judge        stop, requeue: replies are recorded                stop
#   the others   continue; if time runs out, say so in error.txt    end
mapfile -t folders < "$1"
stage=${folders[$SLURM_ARRAY_TASK_ID]}
kind=${stage%/*}
kind=${kind##*/}
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # this task of the array; the plain job id may mean all of its tasks
log=$1-$task.log
# shellcheck disable=SC2034  # the templates use it
container=("${@:3}")
if [[ -n ${2-} ]]; then
    set +eu # a site's file may not work under -e and -u
    # shellcheck disable=SC1090  # the site's own file
    source "$2"
    set -eu
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since Slurm 22.05 srun no longer inherits the job's value
say() { echo "$(date -u +%FT%TZ) $*"; }
say "$stage on ${SLURM_JOB_NODELIST:-?}, start $((${SLURM_RESTART_COUNT:-0} + 1))"

asked=
trap 'asked=USR1; ask_to_stop &' USR1
trap 'asked=TERM; ask_to_stop &' TERM
state() { squeue --noheader --jobs="$task" --format=%T 2>/dev/null; }

ask_to_stop() {
    case $kind in
        sft | train) # a file, unlike a signal, reaches every rank on every node through srun, container and torchrun
            while kill -0 "${child:-$$}" 2>/dev/null; do # repeatedly: a run deletes it when it starts
                mkdir -p "$stage/.checkpoints" && touch "$stage/.checkpoints/stop"
                sleep 1
            done
            ;;
        judge) scancel --signal=USR1 "$task" ;; # to the job steps, not to this script
        *) [[ $asked == TERM ]] || echo "the time limit was near and $kind does not save; raise cluster.stages.$kind.minutes" > "$stage/error.txt" ;;
    esac
}

# Run the stage's command, wait for it across signals, and end the job according to its outcome.
run() {
    local status
    "$@" &
    child=$!
    while :; do
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    if ((status == 0)); then
        rm -f "$stage/error.txt"
        exit
    fi
    if [[ $asked == USR1 && $kind == @(sft|train|judge) && $(state) == RUNNING ]]; then
        say "back to the queue: $stage"
        scontrol requeue "$task"
        sleep 60 # Slurm ends this job
    fi
    # Slurm requeues a preempted job, but only if it has not ended by itself.
    while [[ $asked == TERM && $(state) == RUNNING ]]; do
        sleep 1
    done
    [[ -e $stage/error.txt || -n $asked ]] || echo "$kind ended with code $status, see the end of $log" > "$stage/error.txt"
    exit "$status"
}
