# shellcheck shell=bash
# What the templates share. Arguments of a job: a file with one stage folder a line (this task takes its own), a bash
# file to source first (or nothing), and the container's words. Nothing is ever expanded: names may hold spaces or $().
#
#   Slurm says   before the time is up (USR1)                       when the job has to go (TERM: cancelled, or in the way)
#   sft, train   save, go back to the queue                         save; Slurm itself puts back what was in the way
#   judge        leave, go back to the queue: replies are recorded  leave
#   the others   go on; when the time is not enough, say so         end
mapfile -t folders < "$1"
stage=${folders[$SLURM_ARRAY_TASK_ID]}
kind=${stage%/*}
kind=${kind##*/}
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # one of an array; the job's own number may stand for all of them
log=$1-$task.log
# shellcheck disable=SC2034  # the templates use it
container=("${@:3}")
if [[ -n ${2-} ]]; then
    set +eu # a site's file may not be made for them
    # shellcheck disable=SC1090  # the site's own file
    source "$2"
    set -eu
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since Slurm 22.05 srun does not take the job's own
say() { echo "$(date -u +%FT%TZ) $*"; }
say "$stage on ${SLURM_JOB_NODELIST:-?}, start $((${SLURM_RESTART_COUNT:-0} + 1))"

asked=
trap 'asked=USR1; ask_to_leave &' USR1
trap 'asked=TERM; ask_to_leave &' TERM
state() { squeue --noheader --jobs="$task" --format=%T 2>/dev/null; }

ask_to_leave() {
    case $kind in
        sft | train) # a file, not a signal: it reaches every rank on every node through srun, container and torchrun
            while kill -0 "${child:-$$}" 2>/dev/null; do # again and again: a run clears it when it starts
                mkdir -p "$stage/.checkpoints" && touch "$stage/.checkpoints/stop"
                sleep 1
            done
            ;;
        judge) scancel --signal=USR1 "$task" ;; # the steps, not this script
        *) [[ $asked == TERM ]] || echo "its time was nearly up and $kind does not save; raise cluster.stages.$kind.minutes" > "$stage/error.txt" ;;
    esac
}

# Run the stage's command, through the signals that come meanwhile, and end the job as its outcome says.
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
        sleep 60 # the end of this job comes from outside
    fi
    # Who makes room for another job is put back by Slurm, if it has not ended by itself.
    while [[ $asked == TERM && $(state) == RUNNING ]]; do
        sleep 1
    done
    [[ -e $stage/error.txt || -n $asked ]] || echo "$kind ended with code $status, see the end of $log" > "$stage/error.txt"
    exit "$status"
}
