#!/bin/sh
# Runs the Snakemake workflow for real, and the tasks of the Slurm array as Slurm would start them, on a small grid. Both
# must make the table of an undivided sweep, byte for byte, also after a shard was killed. Called by `make test-cluster`.
#
#   test.sh PIMSIM SCRATCH
#
# SCRATCH is emptied; Snakemake is installed there, in a virtual environment.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
pimsim=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
mkdir -p "$2"
scratch=$(cd "$2" && pwd)
# The release that the workflow was tried with last.
snakemake=9.27.1
venv=$scratch/venv-$snakemake

if [ ! -x "$venv/bin/snakemake" ]; then
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "snakemake==$snakemake"
fi
rm -rf "$scratch/run"
mkdir "$scratch/run"
cd "$scratch/run"

cat > grid.toml <<EOF
name = "test"
[axes]
workload = ["$here/../../configs/workload/demo.toml"]
steps = [16]
policy = ["full", "quest", "starc", "streaming"]
budget = [64, 128, 192, 256]
EOF
"$pimsim" sweep -q grid.toml -o whole

same() {
  cmp whole/sweep.csv "$1" || { echo "$2: not the table of the undivided sweep" >&2; exit 1; }
  echo "$2: same bytes"
}

# Snakemake, which must run jobs for all shards; then one shard is lost and only that one is made again.
run() {
  "$venv/bin/snakemake" -s "$here/Snakefile" --cores 2 --config grid=grid.toml out=snake shards=3 pimsim="$pimsim" "$@"
}
run --quiet all
same snake/sweep.csv Snakemake
rm snake/sweep.csv snake/shards/2/sweep.csv
run > again.log 2>&1
grep -q "0 points run, 5 kept" again.log || { cat again.log >&2; exit 1; }
same snake/sweep.csv "Snakemake, a shard again"
sed 's/256/512/' grid.toml > other.toml
if "$pimsim" merge -q --grid other.toml -o part.csv snake/shards/1/sweep.csv 2> refused.log; then
  echo "an incomplete merge was not refused" >&2
  exit 1
fi

# The Slurm array, a task killed in between and submitted again.
export SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=3 SLURM_CPUS_PER_TASK=1 PIMSIM="$pimsim"
env SLURM_ARRAY_TASK_ID=1 bash "$here/sweep.sbatch" grid.toml slurm & pid=$!
until ls slurm/1/points/*.csv > /dev/null 2>&1; do sleep 0.01; done
kill -9 $pid 2> /dev/null || echo "the task was done before it could be killed" >&2
wait $pid || true
for i in 1 2 3; do env SLURM_ARRAY_TASK_ID=$i bash "$here/sweep.sbatch" grid.toml slurm; done
"$pimsim" merge -q --grid grid.toml -o slurm.csv slurm/*/sweep.csv
same slurm.csv "Slurm array"
