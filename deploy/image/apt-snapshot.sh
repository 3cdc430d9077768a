#!/bin/sh
# Makes apt of a Debian 12 base image see the archive as it was at a time: 20260101T000000Z, say. Nothing: as it is now.
set -eu
[ -n "${1:-}" ] || exit 0
rm -f /etc/apt/sources.list.d/*
for place in "debian/$1 bookworm" "debian/$1 bookworm-updates" "debian-security/$1 bookworm-security"; do
  echo "deb [check-valid-until=no] http://snapshot.debian.org/archive/$place main"
done >/etc/apt/sources.list
