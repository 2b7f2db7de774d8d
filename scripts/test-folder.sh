#!/usr/bin/env bash
# Says which folder tests keep the data of their servers in: one in memory if
# there is plenty of it. Dozens of servers that sync one disk hold each other's
# commits up for seconds, and what is tested is what a server does that is killed
# or cut off, for which either will do. `make dev` and all that measures use disks.
set -euo pipefail

folder=/dev/shm
needed_kib=$((8 * 1024 * 1024))

has_room() {
    local free available
    free=$(df --output=avail "$folder" | tail -1)
    available=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
    ((free >= needed_kib && available >= needed_kib))
}

# Docs' examples and guardians of processes are run from there.
runs_programs() {
    local program ok=1
    program=$(mktemp "$folder/roomgate-XXXXXX") || return 1
    printf '#!/bin/sh\n' >"$program" && chmod +x "$program" && "$program" && ok=0
    rm -f "$program"
    return $ok
}

if [ "$(stat -f -c %T "$folder" 2>/dev/null)" = tmpfs ] && has_room && runs_programs 2>/dev/null; then
    echo "$folder"
else
    echo "${TMPDIR:-/tmp}"
fi
