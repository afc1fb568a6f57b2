#!/bin/sh
# Opens pages of `pimsim report` in headless Chromium: test.sh PIMSIM TRACEGEN FOLDER. Needs Node 20 or newer with npm, the network
# (puppeteer-core and axe-core come from npm, into FOLDER) and Chromium or Chrome, which CHROMIUM names where it is not on
# the path. FOLDER has the screenshots afterwards.
set -eu
pimsim=$1 tracegen=$2 folder=$3
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
for name in ${CHROMIUM:-} chromium chromium-browser google-chrome; do
  browser=$(command -v "$name" || true)
  [ -z "$browser" ] || break
done
[ -n "$browser" ] || { echo "no Chromium or Chrome: CHROMIUM names one" >&2; exit 1; }

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cp "$here/package.json" "$here/package-lock.json" "$here/test.mjs" "$folder/"
(cd "$folder" && npm ci --silent --no-audit --no-fund)

data=$folder/data
mkdir -p "$data"
for policy in full quest starc; do
  "$tracegen" run -q --config "$root/configs/workload/demo.toml" --policy $policy -o "$data/$policy.ptrace" \
    --metrics "$data/$policy.metrics.csv"
done
"$pimsim" run -q "$data/full.ptrace" "$data/quest.ptrace" "$data/starc.ptrace" --config "$root/configs/system/hbm3-pim.toml" -o "$data/run"
"$pimsim" sweep -q "$root/configs/sweep/demo.toml" -o "$data/sweep"
"$pimsim" report -q "$data/sweep" "$data/run" --metrics "$data"/*.metrics.csv -o "$folder/report.html"
cd "$folder" && node test.mjs "$browser" "$folder/report.html"
