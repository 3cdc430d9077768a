# Trains one expert, and one part of it where there are several, by the index of this pod. What was begun goes on.
set -eu
fold=$((JOB_COMPLETION_INDEX % PARTS))
expert=$(echo "$EXPERTS" | cut -d ' ' -f $((JOB_COMPLETION_INDEX / PARTS + 1)))
out=$RUNS/$expert
if [ "$PARTS" -gt 1 ]; then out=$out/fold-$fold; fi

set -- "$@" --out "$out" --text-cache "$RUNS/text"
if [ -e "$out/run.toml" ]; then exec pcqa-train fit --resume "$@"; fi

if [ "$PARTS" -gt 1 ]; then set -- "$@" --folds "$PARTS" --fold "$fold"; fi
# Words on purpose: there are several arguments in it, or none.
# shellcheck disable=SC2086
exec pcqa-train fit --data "$DATA" $DATA_ARGUMENTS --config /etc/pcqa/run.toml --expert "$expert" "$@"
