#!/usr/bin/env bash
# Lays out what the image takes of libtorch: VARIANT's libraries in OUT/lib, their licences in OUT/licences, and in
# OUT/wheels.lock the wheels that they come from.
#
#   deploy/image/libtorch.sh cpu|cuda OUT
set -euo pipefail
variant=$1 out=$2
mkdir -p "$out"
cp -a .libtorch/lib .libtorch/licences "$out"
cp deploy/setup/libtorch.lock "$out/wheels.lock"
# For linking alone.
rm "$out/lib/libtorch.so"
case $variant in
  cpu) ;;
  cuda)
    deploy/setup/setup.sh cuda
    # Not copied: the libraries are 2.9 GB.
    slice=$(realpath .libtorch-cuda)
    mv "$slice"/lib/* "$out/lib"
    cp -a "$slice/licences" "$out"
    rm -r "$slice" .libtorch-cuda
    cat deploy/setup/libtorch-cuda.lock >>"$out/wheels.lock"
    ;;
  *)
    echo "VARIANT=$variant: there are cpu and cuda" >&2
    exit 1
    ;;
esac
chmod -R u=rwX,go=rX "$out"
