#!/bin/sh
# Builds the images. Packages are fetched on this side, Python's by uv and Debian's by debian.py, so a build has no network.
# usage: ./just images [agent gateway sandbox-manager evaluator ledger nats]
# BASE_IMAGE=… names another base, IMAGE_TAG=… another tag than latest
set -eu

cd "$(dirname -- "$0")/../.."
contexts=.build/images

say() { printf 'images: %s\n' "$*" >&2; }
die() { say "$*"; exit 3; }

command -v uv >/dev/null 2>&1 || die "run this as ./just images"
. infra/dev/uv-env.sh

. infra/images/choose-base.sh
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
    name=$1 dockerfile=$2 image=ridges-$1:${IMAGE_TAG:-latest}
    docker build --network none --build-arg "BASE_IMAGE=$base" --file "$dockerfile" --tag "$image" \
        --label "$oci.name=$base" --label "$oci.digest=$base_digest" "$contexts/$name" >"$contexts/$name.log" 2>&1 ||
        { tail -n 30 "$contexts/$name.log" >&2; die "$image did not build; the last lines of $contexts/$name.log are above"; }
    say "$image $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%d MB", $1 / 1e6}')"
}

# What uv has already is what the lock means: the index is asked for the rest.
build_agent() {
    set -- "$contexts/agent/packages" --only-binary :all: --no-deps --require-hashes -r infra/images/agent/requirements.lock
    unpack "$@" --offline 2>/dev/null || unpack "$@"
    .venv/bin/python infra/images/debian.py fetch "$base" "$contexts/agent/debian"
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
