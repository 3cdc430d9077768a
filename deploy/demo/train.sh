#!/usr/bin/env bash
# Trains an ensemble from nothing on synthetic data: the demo's. Took 31 minutes on 2 cores (AMD EPYC with AVX-512).
#
#   deploy/demo/train.sh target/release target/demo
#
# Leaves in the second folder: data/ (synthetic, synthetic-test, photographs), start/ (pretrained networks), runs/ (one
# an expert), bundle/ (the ensemble, with its MODEL_CARD.md). What is there already is not made again, so that an
# interrupted training goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$(realpath "${1:?say where the binaries are, target/release for example}")
work=${2:?say where to work, target/demo for example}
mkdir -p "$work/data" "$work/runs" "$work/logs"
work=$(realpath "$work")
export PATH="$bin:$PATH"

say() { printf '\ntrain-demo: %s (after %d s)\n' "$*" "$SECONDS"; }

# once DIR COMMAND...: runs the command, which makes DIR, unless DIR is there.
once() {
  [ -e "$1" ] || "${@:2}"
}

# data NAME OPTIONS...: appears only when it is complete.
data() {
  rm -rf "$work/data/$1.partial" &&
    pcqa-train synth --side 56 --out "$work/data/$1.partial" "${@:2}" &&
    mv "$work/data/$1.partial" "$work/data/$1"
}

# How often an expert sees all items. The better a backbone learns, the fewer passes it gets: an ensemble is worth most
# where no expert is better than all others.
declare -A epochs=(
  [image_convnext]=4 [image_efficientvit]=3 [image_eva02]=1 [video_convnext]=3 [video_efficientvit]=3
)

# learn EXPERTS...: one after the other; one thread each, so that two lanes share two cores without waiting.
learn() {
  local expert
  for expert in "$@"; do
    sed "s/^epochs = .*/epochs = ${epochs[$expert]}/" "deploy/demo/${expert%%_*}.toml" >"$work/$expert.toml"
    if [ -e "$work/runs/$expert/run.toml" ]; then
      pcqa-train fit --resume --out "$work/runs/$expert"
    else
      pcqa-train fit --data "$work/data/synthetic" --config "$work/$expert.toml" --expert "$expert" \
        --out "$work/runs/$expert" --loaders 1 --text-cache "$work/text"
    fi >"$work/logs/$expert.log" 2>&1
  done
}

say "rendering data; no prompt of the test part is in the training part"
once "$work/data/synthetic" data synthetic --part train --seed 1 --images 80000 --videos 9600
once "$work/data/synthetic-test" data synthetic-test --part test --seed 2 --images 2000 --videos 600
mkdir -p "$work/photographs"
cp -L .samples/*.png .samples/*.jpg "$work/photographs"
once "$work/data/photographs" data photographs --photographs "$work/photographs"

say "pretraining text towers, backbones and heads"
once "$work/untrained" pcqa-train init --seed 1 --out "$work/untrained" >/dev/null
once "$work/start" pcqa-train pretrain --bundle "$work/untrained" --seed 1 --out "$work/start" >/dev/null

say "training experts; $work/logs says how they are doing"
learn image_efficientvit video_efficientvit &
lane=$!
learn image_convnext image_eva02 video_convnext
wait "$lane"

say "calibrating on what was held out, and judging on the test part"
experts=(image_convnext image_efficientvit image_eva02 video_convnext video_efficientvit)
pcqa-train ensemble --runs "${experts[@]/#/$work/runs/}" --data "$work/data/synthetic" --test "$work/data/synthetic-test" \
  --out "$work/bundle" --force --name demo --licence "Apache-2.0 AND MIT" --mos-min 1 --mos-max 5 --store f16
pcqa-train evaluate --data "$work/data/photographs" --bundle "$work/bundle" --predict-to "$work/photographs.csv" >/dev/null
{
  printf '\n## Photographs\n\nMean scores of %d photographs that it never saw, by the strength of a distortion:\n\n' \
    "$(ls "$work/photographs" | wc -l)"
  deploy/demo/monotone.py "$work/data/photographs/info.csv" "$work/photographs.csv" || true
} >>"$work/bundle/MODEL_CARD.md"
cat "$work/bundle/MODEL_CARD.md"
say "the bundle is in $work/bundle"
if diff -rq "$work/bundle" src/model/demo; then say "it is the one that is compiled in, byte for byte"; fi
