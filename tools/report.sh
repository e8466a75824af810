#!/bin/bash
# report.sh WHAT COMMAND...: run a command; without a terminal, where it would show nothing, say every 10 s how far it is.
# The time left is estimated from the last time that took that long on this machine; the first time, nobody knows it.
set -eu
what=$1
shift
[ ! -t 2 ] || exec "$@"
interval=${REPORT_SECONDS:-10}
notes=${REPORT_NOTES:-$(dirname "$0")/../.cache/report}/${what//[^A-Za-z0-9]/_}

# Megabytes that the command has written so far.
written() {
  local process
  for process in $(awk -v parent=$$ '$4 == parent {print $1}' /proc/[0-9]*/stat 2>/dev/null); do
    awk '/^wchar/ {print $2}' "/proc/$process/io" 2>/dev/null || true
  done | awk '{sum += $1} END {printf "%d", sum / 1000000}'
}

# Seconds left after some seconds and megabytes, if the last time says it.
left() {
  [ -r "$notes" ] || return 0
  awk -v seconds="$1" -v megabytes="$2" '{
    left = ($2 >= 10 && megabytes >= 10) ? seconds * ($2 - megabytes) / megabytes : $1 - seconds
    if (left > 0) printf ", about %d s left", left
  }' "$notes"
}

report() {
  # Its own process has another parent when the script was killed.
  local own=$BASHPID megabytes
  while sleep "$interval" > /dev/null 2>&1 && [ "$(awk '{print $4}' "/proc/$own/stat" 2> /dev/null)" = $$ ]; do
    megabytes=$(written)
    mkdir -p "$(dirname "$notes")"
    echo "$SECONDS $megabytes" > "$notes.now"
    echo "$what: $SECONDS s$([ "$megabytes" -lt 10 ] || echo ", $megabytes MB written")$(left "$SECONDS" "$megabytes")"
  done
}

rm -f "$notes.now"
report &
reporter=$!
trap 'kill $reporter 2>/dev/null || true' EXIT
"$@"
kill $reporter 2>/dev/null || true
wait $reporter 2>/dev/null || true
[ ! -e "$notes.now" ] || mv "$notes.now" "$notes"
