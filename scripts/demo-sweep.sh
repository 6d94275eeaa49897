#!/bin/bash
# The sweep behind the demo's learning rate: experts at several rates, judged as an ensemble on the search images (even
# held-out ones) only. Prints the rows of docs/demo-sweep.md. Resumable.
#   scripts/demo-sweep.sh OUT UPDATES RATE...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
out=$1 updates=$2
shift 2
deme=${DEME:-target/release/deme}
model=models/ddpm-emoji32
data=(--data data/noto-emoji-32.png --tile 32 --holdout 10)
judge() { "$deme" -q eval loss "$@" "${data[@]}" --split holdout-even --repeats 2 --seed 1 --json; }
row() {
  python3 - "$@" <<'PY'
import json, sys
name, path = sys.argv[1], sys.argv[2]
report = json.load(open(path))["report"]
losses = [b["loss"] for b in report["buckets"]] + [report["total"]["loss"]]
print("| " + " | ".join([name] + ["%.6f" % l for l in losses]) + " |")
PY
}
mkdir -p "$out"
[ -e "$out/base.json" ] || judge --model "$model" >"$out/base.json.part"
[ -e "$out/base.json" ] || mv "$out/base.json.part" "$out/base.json"
row base "$out/base.json"
for rate in "$@"; do
  run=$out/$rate
  "$deme" -q finetune --model "$model" "${data[@]}" --out "$run/experts" --ranges 4 --steps "$updates" --batch 16 \
    --accumulate 1 --lr "$rate" --p 0.4 --flip --log-every 3 --eval-every 0 --sample-every 0 --resume >/dev/null
  experts=("$run"/experts/expert_{0,1,2,3})
  judge --model "$model" --ensemble --experts "${experts[@]}" >"$run/ensemble.json"
  row "ensemble, $rate" "$run/ensemble.json"
done
