#!/bin/sh
# Brings two environments up to date, and does nothing when nothing changed since:
#   .venv         requirements.lock and the workspace members (editable)
#   .venv-agent   what agents may import in sandboxes that have no image (bubblewrap, process)
set -eu

cd "$(dirname -- "$0")/../.."
agent_lock=infra/images/agent/requirements.lock
stamp=.venv/.synced-for

say() { printf 'sync: %s\n' "$*" >&2; }

# Four lines: where and with which Python, the lock, the agents' lock, the members.
wanted() {
    echo "$(pwd -P) ${RIDGES_PYTHON:-}"
    cat tools.txt requirements.lock | cksum
    cksum <"$agent_lock"
    cat ./*/pyproject.toml services/*/pyproject.toml 2>/dev/null | cksum
}

stamp_line() { sed -n "$1p" "$stamp" 2>/dev/null || true; }
wanted_line() { echo "$want" | sed -n "$1p"; }
same() { [ "$(stamp_line "$1")" = "$(wanted_line "$1")" ]; }

up_to_date() { [ -x .venv/bin/python ] && [ -x .venv-agent/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; }

# usage: install ENVIRONMENT LOCK [OPTION ...]   A moved or broken environment is made again, a good one only brought up to date.
install() {
    if ! same 1 || ! "$1/bin/python" -c '' 2>/dev/null; then
        uv venv --quiet --clear --prompt ridges --python "${RIDGES_PYTHON:->=3.11}" "$1"
    fi
    environment=$1 lock=$2
    shift 2
    uv pip sync --quiet --python "$environment" --require-hashes "$@" "$lock"
}

install_members() {
    set --
    for file in ./*/pyproject.toml services/*/pyproject.toml; do
        if [ -f "$file" ]; then set -- "$@" --editable "$(dirname "$file")"; fi
    done
    uv pip install --quiet --python .venv --no-deps "$@"
}

want=$(wanted)
if up_to_date; then exit 0; fi

# Two first runs at once: the second waits. The lock goes with the process that holds it.
mkdir -p .tools
exec 9>.tools/sync.lock
if command -v flock >/dev/null 2>&1 && ! flock -n 9; then
    say "another run is making .venv; waiting for it"
    flock 9
fi
if up_to_date; then exit 0; fi

say "bringing .venv and .venv-agent up to date"
. infra/dev/uv-env.sh
trap '[ $? = 0 ] || say "uv could not do it; its words are above. Mend: check the network and the index settings, then run this again"' EXIT
if ! same 1 || ! same 3 || ! [ -x .venv-agent/bin/python ]; then
    install .venv-agent "$agent_lock" --compile-bytecode  # sandboxes see it read-only: each would compile what it imports
fi
if ! same 1 || ! same 2 || ! [ -x .venv/bin/python ]; then install .venv requirements.lock; fi
install_members
printf '%s\n' "$want" >"$stamp"
