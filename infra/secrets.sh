#!/bin/sh
# Writes infra/.env, from which `docker compose -f infra/compose.yaml` takes its secrets: once, for this user only.
set -eu

file=$(dirname -- "$0")/.env
socket=${RIDGES_ENGINE_SOCKET:-/var/run/docker.sock}
[ ! -e "$file" ] || { echo "$file is there already; its secrets must stay the same over restarts" >&2; exit 1; }

secret() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

umask 077
{
    for name in RUN_TOKEN_KEY API_TOKEN NATS_ADMIN_PASSWORD NATS_RELAY_PASSWORD NATS_CLIENT_PASSWORD NATS_LEDGER_PASSWORD \
        NATS_GATEWAY_PASSWORD NATS_SANDBOX_MANAGER_PASSWORD NATS_EVALUATOR_PASSWORD; do
        echo "RIDGES_$name=$(secret)"
    done
    echo "DOCKER_GID=$(stat -c %g "$socket")"
} >"$file.new"
mv "$file.new" "$file"
echo "wrote $file"
