#!/usr/bin/env bash
# Make a small video twice as large with a network that was trained for it. Its sound is kept.
#
#     examples/upscale.sh IN OUT.mp4 [further options of stillframe filter]
set -euo pipefail
in=$1 out=$2
shift 2

ffmpeg -v error -i "$in" -vf scale=-2:120 -pix_fmt yuv420p -f yuv4mpegpipe - |
    stillframe filter --effect upscale --allow-sdist "$@" |
    ffmpeg -v error -f yuv4mpegpipe -i - -i "$in" -map 0:v -map '1:a?' -c:a copy "$out"
