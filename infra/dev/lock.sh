#!/bin/sh
# Writes the lock files: every pin with the hashes of all its files, no addresses. Arguments go to `uv pip compile`.
set -eu

cd "$(dirname -- "$0")/../.."

if ! command -v uv >/dev/null 2>&1; then
    echo "lock: run this as ./just lock" >&2
    exit 2
fi

. infra/dev/uv-env.sh

compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url "$@"; }

compile infra/images/agent/requirements.in "$@" --only-binary :all: --output-file infra/images/agent/requirements.lock

printf '%s\n' uv rust-just | compile - "$@" --only-binary :all: --output-file tools.txt
sed -i '1i # What ./just installs into .tools/; ./just lock writes it.' tools.txt

set -- "$@" --group dev --output-file requirements.lock
for file in ./*/pyproject.toml services/*/pyproject.toml; do
    set -- "$@" --no-emit-package "$(sed -n 's/^name = "\(.*\)"$/\1/p' "$file" | head -n 1)"
done
compile pyproject.toml "$@"
