# shellcheck shell=bash
# Shared by the templates. Arguments of a job: options, then a file with one stage folder per line (each task takes its
# own line), a bash file to source first (may be empty), and the container command. Nothing is expanded: names may have
# spaces or $().
#
#   --ranks=N --threads=N     processes of the stage, and threads of each
#   --cpus=N --gpus=N         what each node was asked for, compared with what the job got
#   --path=DIR                where python is, outside of a container; the site may export no PATH
#
#   signal       USR1: the time limit is near                       TERM: the job is cancelled or preempted
#   sft, train   save, requeue                                      save; Slurm itself requeues a preempted job
#   judge, duel, generate, held_out, sample, capability
#                stop, requeue: replies, answers and finished       stop
#                tasks are recorded
#   the others   continue; if time runs out, say so in error.txt    end
#
# A job that has nothing new to show is not requeued, and a job that was requeued four times without is ended.
ranks=1 threads=1 cpus=0 gpus=0
while [[ ${1-} == --*=* ]]; do
    case $1 in
        --ranks=*) ranks=${1#*=} ;;
        --threads=*) threads=${1#*=} ;;
        --cpus=*) cpus=${1#*=} ;;
        --gpus=*) gpus=${1#*=} ;;
        --path=*) PATH=${1#*=}:$PATH ;;
        *) echo "error: unknown argument $1 of a job" >&2 && exit 2 ;;
    esac
    shift
done
mapfile -t folders < "$1"
stage=${folders[$SLURM_ARRAY_TASK_ID]}
kind=${stage%/*}
kind=${kind##*/}
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # this task of the array; the plain job id may mean all of its tasks
log=$1-$task.log
# shellcheck disable=SC2034  # the templates use it
container=("${@:3}")
say() { echo "$(date -u +%FT%TZ) $*"; }
fail() {
    echo "$*" > "$stage/error.txt"
    echo "error: $*" >&2
    exit 1
}
say "$stage on ${SLURM_JOB_NODELIST:-?}, start $((${SLURM_RESTART_COUNT:-0} + 1))"

# NAME ASKED GOT: end the job when a node has less than was asked for.
compare() {
    (($3 >= $2)) || fail "cluster.stages.$kind.$1=$2 was asked for and the job got $3; change one, then submit it again"
}
compare cpus "$cpus" "${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-0}}"
IFS=, read -ra visible <<< "${CUDA_VISIBLE_DEVICES-}"
[[ ${visible[*]-} != NoDevFiles ]] || visible=()
compare gpus "$gpus" "$((${#visible[@]} > 0 ? ${#visible[@]} : ${SLURM_GPUS_ON_NODE:-0}))"
here=$((ranks / ${SLURM_JOB_NUM_NODES:-1}))
((here * ${SLURM_JOB_NUM_NODES:-1} == ranks)) ||
    fail "$ranks ranks cannot be divided among the ${SLURM_JOB_NUM_NODES:-1} nodes that the job got; submit it again"

if [[ -n ${2-} ]]; then
    set +eu # a site's file may not work under -e and -u
    # shellcheck disable=SC1090  # the site's own file
    source "$2"
    set -eu
fi
export OMP_NUM_THREADS=$threads # also of libraries that read it before the worker sets torch's
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # since Slurm 22.05 srun no longer inherits the job's value
# A job submitted with --export=NONE would pass nothing of this on, not even PATH.
export SLURM_EXPORT_ENV=ALL
# shellcheck disable=SC2034  # the templates use it
worker=(python -m focalpo.running.worker "$stage" "--ranks=$ranks" "--threads=$threads")

# What the next start does not have to do again: the newest checkpoint, the parts of answers, the finished tasks, or the
# replies of a judge.
progress() {
    local saved=("$stage"/.checkpoints/step-*/complete) parts tasks=0 replies
    parts=$(compgen -G "$stage/.checkpoints/*.parquet" | wc -l) || true
    [[ $kind != capability ]] || tasks=$(compgen -G "$stage/*.json" | wc -l) || true
    replies=$(grep -c '"outcome": "good"' "$stage/records.jsonl" 2>/dev/null) || true
    echo "${saved[-1]#"$stage"} $parts $tasks ${replies:-0}"
}
began=$(progress)
starts=$stage/.starts # one line per start: the task, and what there was
echo "$task $began" >> "$starts"
if ((${SLURM_RESTART_COUNT:-0} >= 4)) && [[ $(tail -n 5 "$starts" | sort -u | wc -l) == 1 ]]; then
    fail "$kind was requeued four times and has nothing new to show; see the end of $log for why, then submit it again"
fi

asked=
trap 'asked=USR1; ask_to_stop &' USR1
trap 'asked=TERM; ask_to_stop &' TERM
state() { squeue --noheader --jobs="$task" --format=%T 2>/dev/null; }

saves() { [[ $kind == @(sft|train) ]]; }
records() { [[ $kind == @(judge|duel|generate|held_out|sample|capability) ]]; }

ask_to_stop() {
    if saves; then # a file, unlike a signal, reaches every rank on every node through srun, container and torchrun
        while kill -0 "${child:-$$}" 2>/dev/null; do # repeatedly: a run deletes it when it starts
            mkdir -p "$stage/.checkpoints" && touch "$stage/.checkpoints/stop"
            sleep 1
        done
    elif [[ $asked == TERM ]]; then
        : # Slurm itself sends TERM to the job steps, and a late signal to the task would stop its next start
    elif records; then
        scancel --signal=USR1 "$task" # to the job steps, not to this script
    else
        echo "the time limit was near and $kind does not save; raise cluster.stages.$kind.minutes" > "$stage/error.txt"
    fi
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
    if [[ $asked == USR1 && $(state) == RUNNING ]] && { saves || records; }; then
        if [[ $(progress) == "$began" ]]; then
            [[ ! -e $stage/error.txt ]] || exit "$status" # its own reason
            fail "the time limit was near and $kind had made no progress; raise cluster.stages.$kind.minutes"
        fi
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
