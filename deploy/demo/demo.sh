#!/usr/bin/env bash
# Serves the compiled-in bundle on loopback, scores photographs and clips through gRPC, and stops the server.
#
#   deploy/demo/demo.sh target/release
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$(realpath "${1:?say where the binaries are, target/release for example}")
[ -d .samples ] || { echo "demo: run 'deploy/setup/setup.sh demo' first" >&2; exit 1; }
work=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap finish EXIT

say() { printf '\ndemo: %s\n' "$*"; }
fail() { say "$*; the server's log:"; cat "$work/server.log"; exit 1; }

say "starting pcqa-server with the bundle compiled into it"
"$bin/pcqa-server" --listen 127.0.0.1:0 --log-format json >"$work/server.log" 2>&1 &
server=$!
address=
for _ in $(seq 600); do
  address=$(sed -n 's/.*"listen":"\([^"]*\)".*/\1/p' "$work/server.log" | head -n 1)
  if [ -n "$address" ] && grep -q '"message":"ready"' "$work/server.log"; then break; fi
  kill -0 "$server" 2>/dev/null || fail "the server ended"
  sleep 0.1
done
grep -q '"message":"ready"' "$work/server.log" || fail "the server is not ready after a minute"
export PCQA_SERVER="http://$address"

cp -L .samples/* deploy/demo/items.csv "$work"
cd "$work"
"$bin/pcqa" info
say "ranking four rendered pictures of the kind that this bundle learnt from; their list knows the truth"
"$bin/pcqa-train" synth --seed 5 --part test --side 56 --images 4 --out scenes 2>/dev/null
cat scenes/info.csv
"$bin/pcqa" rank --prompt "at night, one green ring" scenes/images/*.png
say "scoring photographs and H.264 clips for their prompts"
"$bin/pcqa" score --from items.csv

say "stopping the server"
kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" -eq 0 ] || fail "the server exited with $status"
say "the server stopped cleanly"
