#!/bin/sh
# Wall time of `./just demo` in a fresh clone (cold: makes its environments first) and again (warm). usage: demo_wall.sh
set -eu
here=$(cd "$(dirname -- "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet "$here" "$folder/ridges"
cd "$folder/ridges"
for kind in cold warm; do
    before=$(date +%s.%N)
    ./just demo >/dev/null 2>demo.log || { cat demo.log; exit 1; }
    after=$(date +%s.%N)
    echo "| ./just demo, $kind | $(echo "$after - $before" | awk '{printf "%.1f", $1 - $3}') s |"
done
