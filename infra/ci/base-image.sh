#!/bin/sh
# Makes the image ridges-base:<codename> from this machine's own Debian mirror, so that images can be built where no
# image registry is reached. Run as root on Debian; prints the image's name. An image that exists is kept.
set -eu

PACKAGES=python3,python3-venv,git,ca-certificates
SOURCE_FILES="/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources"

say() { printf 'base-image: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$codename" ] || die "this is no Debian release; build with --build-arg BASE_IMAGE=python:3.12-slim instead"
image=ridges-base:$codename

docker info >/dev/null 2>&1 || die "no Docker engine answers; mend: infra/ci/install-docker.sh"
if docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image"
    exit 0
fi
[ "$(id -u)" = 0 ] || die "root is needed for debootstrap; mend: sudo sh $0"

# Both forms of apt's sources: "deb [options] URI suite …" lines and "URIs:" fields with their "Suites:".
# shellcheck disable=SC2086
mirror=$(cat $SOURCE_FILES 2>/dev/null | awk -v want="$codename" '
    $1 == "deb" { i = 2; if ($i ~ /^\[/) { while ($i !~ /\]$/) i++; i++ } if ($(i + 1) == want) { print $i; exit } }
    $1 == "URIs:" { uri = $2 }
    $1 == "Suites:" { for (i = 2; i <= NF; i++) if ($i == want && uri != "") { print uri; exit } }')
[ -n "$mirror" ] || die "no apt source for $codename in /etc/apt; add one, then run this again"

if ! command -v debootstrap >/dev/null 2>&1; then
    say "installing debootstrap"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || say "apt-get update failed; going on with the lists at hand"
    apt-get install -y -qq --no-install-recommends debootstrap >&2
fi

root=$(mktemp -d "${TMPDIR:-/tmp}/ridges-base.XXXXXX")
trap 'rm -rf "$root"' EXIT
trap 'exit 130' INT TERM
say "making $image (a minute or two)"
debootstrap --variant=minbase --include="$PACKAGES" "$codename" "$root/fs" "$mirror" >"$root/log" 2>&1 ||
    { tail -n 20 "$root/log" "$root/fs/debootstrap/debootstrap.log" >&2; die "debootstrap failed; its last words are above"; }

fs=$root/fs
rm -rf "$fs"/var/cache/apt/archives/*.deb "$fs"/var/cache/apt/*.bin "$fs"/var/lib/apt/lists/* "$fs"/var/log/*.log \
    "$fs"/usr/share/doc/* "$fs"/usr/share/man/* "$fs"/usr/share/locale/* "$fs"/var/cache/debconf/*-old
rm -f "$fs/etc/resolv.conf" "$fs/etc/hostname"
ln -sf python3 "$fs/usr/bin/python"
tar -C "$fs" --numeric-owner -c . | docker import \
    --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$image" >/dev/null
say "made $image: $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%d MB", $1 / 1e6}')"
echo "$image"
