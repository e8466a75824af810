#!/bin/bash
# report.sh WHAT COMMAND...: run a command; without a terminal, where it would show nothing, say every 10 s how far it is.
set -eu
what=$1
shift
[ ! -t 2 ] || exec "$@"

# Megabytes that the command has written so far.
written() {
  local process
  for process in $(awk -v parent=$$ '$4 == parent {print $1}' /proc/[0-9]*/stat 2>/dev/null); do
    awk '/^wchar/ {print $2}' "/proc/$process/io" 2>/dev/null || true
  done | awk '{sum += $1} END {printf "%d", sum / 1000000}'
}

report() {
  # Its own process has another parent when the script was killed.
  local own=$BASHPID megabytes
  while sleep 10 > /dev/null 2>&1 && [ "$(awk '{print $4}' "/proc/$own/stat")" = $$ ]; do
    megabytes=$(written)
    echo "$what: $SECONDS s$([ "$megabytes" -lt 10 ] || echo ", $megabytes MB written")"
  done
}

report &
reporter=$!
trap 'kill $reporter 2>/dev/null || true' EXIT
"$@"
