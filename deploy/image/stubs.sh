#!/bin/sh
# Empty sources for every target of Cargo.toml, so that cargo can compile the dependencies before it has ours.
set -eu
mkdir -p src benches
echo >src/lib.rs
echo 'fn main() {}' >build.rs
sed -n 's/^path = "\(.*\.rs\)"$/\1/p' Cargo.toml | while read -r path; do
  mkdir -p "$(dirname "$path")"
  echo 'fn main() {}' >"$path"
done
sed -n '/^\[\[bench\]\]$/{n;s/^name = "\(.*\)"$/\1/p}' Cargo.toml | while read -r name; do
  echo 'fn main() {}' >"benches/$name.rs"
done
