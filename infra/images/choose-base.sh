# Sourced by the scripts that need the base of images: sets `base`, which the engine has then.
# shellcheck shell=sh

docker info >/dev/null 2>&1 || die "no Docker engine answers (docker info). Mend: sudo infra/ci/install-docker.sh, or join the group docker"

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
