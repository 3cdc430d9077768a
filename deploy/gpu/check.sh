#!/usr/bin/env bash
# Checks and measures pcqa on a GPU.
#
#   deploy/gpu/check.sh pack                     # where it is built: target/gpu/pcqa-gpu.tar.xz
#   deploy/gpu/check.sh                          # on the GPU host, from the repository or the unpacked archive
#   deploy/gpu/check.sh parity graphs            # these steps only; all are listed by --help
#   deploy/gpu/check.sh --device cpu --tiny      # the same steps on the CPU with the demo bundle: tries the script
#
# The GPU host needs PyTorch 2.11 with CUDA and Python 3, no network, no FFmpeg and no Rust. Exit codes: 0 every step
# holds, 1 one does not, 2 wrong arguments, 3 there is no GPU to check.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
# In the repository binaries are in target/gpu, in an archive beside this script.
home=$here
[ -d "$here/bin" ] || home=$(realpath "$here/../..")/target/gpu

say() { printf 'gpu-check: %s\n' "$*" >&2; }

# The executable that cargo has made for a bench.
bench() {
  cargo bench --locked --no-run --message-format=json --bench "$1" 2>/dev/null |
    sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1
}

build() {
  local root=$here/../.. file
  cd "$root"
  cargo build --release --locked --bins
  cargo bench --locked --no-run --bench ceiling --bench step --bench device
  mkdir -p target/gpu/bin
  for file in pcqa pcqa-server pcqa-train; do strip -o "target/gpu/bin/$file" "target/release/$file"; done
  for file in ceiling step device; do strip -o "target/gpu/bin/$file" "$(bench "$file")"; done
  printf 'pcqa %s\n' "$(git describe --always --dirty 2>/dev/null || echo 'without a commit')" >target/gpu/version
}

pack() {
  build
  local work=target/gpu/pack
  rm -rf "$work"
  mkdir -p "$work/pcqa-gpu"
  cp -r target/gpu/bin target/gpu/version "$here/check.sh" "$here/check.py" "$here/house.py" benches/pytorch_ceiling.py benches/pytorch_step.py "$work/pcqa-gpu"
  # timm alone: with PyTorch there, it needs nothing else that check.py cannot stand in for.
  python3 -m venv --clear "$work/venv"
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --no-compile \
    --target "$work/pcqa-gpu/python" -r "$here/python.lock"
  find "$work/pcqa-gpu" -type f -size +64M -exec false {} + || { say "a file is larger than 64 MiB"; exit 1; }
  tar -C "$work" -cf - pcqa-gpu | xz -T0 -6 >target/gpu/pcqa-gpu.tar.xz
  rm -rf "$work"
  say "packed $(du -h target/gpu/pcqa-gpu.tar.xz | cut -f1): $(realpath target/gpu/pcqa-gpu.tar.xz)"
}

if [ "$home" != "$here" ]; then
  command -v cargo >/dev/null || { say "no programs beside $here and no cargo: pack them where they are built"; exit 2; }
  case ${1:-} in
    pack) pack; exit ;;
    build) build; exit ;;
    --help | -h) ;;
    *) (build) ;; # What the sources are now, and not what they were.
  esac
elif [[ ${1:-} == pack || ${1:-} == build ]]; then
  say "$1 works in the repository; these programs are built"
  exit 2
fi
exec python3 "$here/check.py" --home "$home" "$@"
