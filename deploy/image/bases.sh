#!/usr/bin/env bash
# Base images for where no registry can be reached: localhost/pcqa-debian from Debian's archive, as this machine's apt
# is set to reach it, and localhost/pcqa-rust, which is that with this machine's Rust toolchain. Kept until --again.
#
#   deploy/image/bases.sh [--again]
set -euo pipefail
say() { printf 'bases: %s\n' "$*" >&2; }

exists() { buildah images -q "$1" >/dev/null 2>&1; }

work=
containers=()
finish() {
  for container in "${containers[@]}"; do buildah rm "$container" >/dev/null; done
  rm -rf "$work"
}
trap finish EXIT

debian() {
  work=$(mktemp -d)
  say "localhost/pcqa-debian from Debian's archive"
  apt-get update -qq
  apt-get indextargets 'Created-By: Packages' --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' \
    | grep -E ' bookworm(-updates|-security)? main$' | sort -u >"$work/sources.list"
  # How to reach it: proxies, and what is said about dates.
  apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-(Valid-Until|Date)) ' >"$work/apt.conf" || true
  mmdebstrap --quiet --variant=minbase --include=ca-certificates --aptopt="$work/apt.conf" \
    bookworm "$work/debian.tar" "$work/sources.list"
  local container
  container=$(buildah from scratch)
  containers+=("$container")
  buildah add -q "$container" "$work/debian.tar" / >/dev/null
  buildah config --cmd /bin/bash "$container"
  buildah commit -q --timestamp 0 "$container" localhost/pcqa-debian >/dev/null
}

rust() {
  local container sysroot
  sysroot=$(rustc --print sysroot)
  say "localhost/pcqa-rust with $(rustc --version)"
  container=$(buildah from --pull-never localhost/pcqa-debian)
  containers+=("$container")
  for part in bin lib libexec share/doc/rust/COPYRIGHT-library.html share/doc/rust/licenses; do
    buildah copy -q "$container" "$sysroot/$part" "/usr/local/rust/$part" >/dev/null
  done
  buildah config --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env CARGO_HOME=/usr/local/cargo "$container"
  buildah commit -q --timestamp 0 "$container" localhost/pcqa-rust >/dev/null
}

if [ "${1:-}" = --again ] || ! exists localhost/pcqa-debian; then debian; fi
if [ "${1:-}" = --again ] || ! exists localhost/pcqa-rust; then rust; fi
