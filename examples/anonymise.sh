#!/usr/bin/env bash
# Hide every face of a video. Its sound and its times are kept; OUT.jsonl says what was hidden.
#
#     examples/anonymise.sh IN OUT.mp4 [further options of stillframe filter]
set -euo pipefail
in=$1 out=$2
shift 2

stillframe filter "$in" --effect blur --reuse layer --tolerance 0.2 --format nut --jsonl "$out.jsonl" "$@" |
    ffmpeg -v error -f nut -i - -i "$in" -map 0:v -map '1:a?' -c:a copy "$out"
