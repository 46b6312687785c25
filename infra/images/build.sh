#!/bin/sh
# Builds the images. Packages are resolved and unpacked on this side with uv, so a build needs no package index;
# only the agent's image asks the base's own apt mirror.
# usage: ./just images [agent gateway sandbox-manager evaluator ledger nats]     BASE_IMAGE=… names another base
set -eu

cd "$(dirname -- "$0")/../.."
contexts=.build/images

say() { printf 'images: %s\n' "$*" >&2; }
die() { say "$*"; exit 3; }

command -v uv >/dev/null 2>&1 || die "run this as ./just images"
docker info >/dev/null 2>&1 || die "no Docker engine answers (docker info). Mend: sudo infra/ci/install-docker.sh, or join the group docker"

. infra/dev/uv-env.sh

choose_base() {
    [ -z "${BASE_IMAGE:-}" ] || { echo "$BASE_IMAGE"; return; }
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-none}")
    if docker image inspect "ridges-base:$codename" >/dev/null 2>&1; then
        echo "ridges-base:$codename"
    else
        echo python:3.12-slim
    fi
}

base=$(choose_base)
docker image inspect "$base" >/dev/null 2>&1 || docker pull -q "$base" >&2 ||
    die "the base image $base is not here and cannot be pulled. Mend: sudo infra/ci/base-image.sh makes one from this machine's Debian mirror"
oci=org.opencontainers.image.base
base_digest=$(docker image inspect --format '{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}' "$base")
base_digest=${base_digest##*@} # what a registry calls it, or (made here) its own id
base_python=$(docker run --rm --network none "$base" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# usage: unpack DIR UV-ARGS...   A site folder for the base's Python, of wheels only.
unpack() {
    target=$1
    shift
    rm -rf "$target"
    uv pip install --quiet --target "$target" --python-version "$base_python" --link-mode copy "$@"
}

build() {
    name=$1 dockerfile=$2
    docker build --network host --build-arg "BASE_IMAGE=$base" --file "$dockerfile" --tag "ridges-$name:latest" \
        --label "$oci.name=$base" --label "$oci.digest=$base_digest" "$contexts/$name" >"$contexts/$name.log" 2>&1 ||
        { tail -n 30 "$contexts/$name.log" >&2; die "ridges-$name did not build; the last lines of $contexts/$name.log are above"; }
    say "ridges-$name:latest $(docker image inspect --format '{{.Size}}' "ridges-$name:latest" | awk '{printf "%d MB", $1 / 1e6}')"
}

build_agent() {
    unpack "$contexts/agent/packages" --only-binary :all: --no-deps --require-hashes -r infra/images/agent/requirements.lock
    build agent infra/images/agent/Dockerfile
}

build_nats() {
    mkdir -p "$contexts/nats/bin"
    cp .venv/bin/nats-server "$contexts/nats/bin/"
    cp infra/nats.conf infra/nats-kurrentdb.conf "$contexts/nats/"
    build nats infra/images/nats/Dockerfile
}

build_service() {
    context=$contexts/$1
    unpack "$context/packages" --no-sources --constraint requirements.lock \
        --refresh-package ridges-contracts --refresh-package ridges-chassis --refresh-package "ridges-$1" ./contracts "./chassis[kurrent]" "./services/$1"
    rm -rf "$context/ridges"
    mkdir -p "$context/ridges"
    mv "$context"/packages/ridges "$context"/packages/ridges_*.dist-info "$context/ridges/"
    rm -f "$context"/packages/.lock
    build "$1" "services/$1/Dockerfile"
}

[ $# -gt 0 ] || set -- agent nats gateway sandbox-manager evaluator ledger
say "base $base (Python $base_python)"
for image in "$@"; do
    case $image in
        agent) build_agent ;;
        nats) build_nats ;;
        gateway | sandbox-manager | evaluator | ledger) build_service "$image" ;;
        *) die "there is no image '$image'; known: agent nats gateway sandbox-manager evaluator ledger" ;;
    esac
done
