# shellcheck shell=bash
# What the templates share. Arguments of a job: a file with one stage folder a line (this task takes its own), a bash
# file to source first (or nothing), and the container's words. Nothing is ever expanded: names may hold spaces or $().
# shellcheck disable=SC2034  # the templates use these
mapfile -t folders < "$1"
stage=${folders[$SLURM_ARRAY_TASK_ID]}
container=("${@:3}")
# shellcheck disable=SC1090  # the site's own file
[[ -z ${2-} ]] || source "$2"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
echo "$(date -u +%FT%TZ) $stage on ${SLURM_JOB_NODELIST:-?}, start $((${SLURM_RESTART_COUNT:-0} + 1))"

requeue() {
    echo "$(date -u +%FT%TZ) back to the queue: $stage"
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # the end of this job comes from outside
}

# Run a command; wait also through signals that a trap has handled.
run() {
    local status
    "$@" &
    child=$!
    while :; do
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || break
    done
    return "$status"
}
