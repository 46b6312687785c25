#!/bin/sh
# Makes the image ridges-base:<codename> from this machine's own Debian mirror, so that images can be built where no
# image registry is reached. Run as root on Debian; prints the image's name. An image that exists is kept.
# usage: base-image.sh [CODENAME]   (default: this machine's release)   DEBIAN_MIRROR=… names another archive, such as a snapshot
set -eu

PACKAGES=python3,python3-venv,git,ca-certificates
SOURCE_FILES="/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources"

say() { printf 'base-image: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

here=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
codename=${1:-$here}
[ -n "$codename" ] || die "this is no Debian release; build with --build-arg BASE_IMAGE=python:3.12-slim instead"
image=ridges-base:$codename

docker info >/dev/null 2>&1 || die "no Docker engine answers; mend: infra/ci/install-docker.sh"
if docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image"
    exit 0
fi
[ "$(id -u)" = 0 ] || die "root is needed for debootstrap; mend: sudo sh $0"

# usage: sources SUITE...   Lines "URI SUITE" of those that apt asks here, from both forms: "deb [options] URI suite …" lines
# and "URIs:" fields with their "Suites:".
# shellcheck disable=SC2086
sources() {
    cat $SOURCE_FILES 2>/dev/null | awk -v wanted=" $* " '
        function tell(uri, suite) { if (uri != "" && index(wanted, " " suite " ") && !told[suite]++) print uri, suite }
        $1 == "deb" { i = 2; if ($i ~ /^\[/) { while ($i !~ /\]$/) i++; i++ } tell($i, $(i + 1)) }
        $1 == "URIs:" { uri = $2 }
        $1 == "Suites:" { for (i = 2; i <= NF; i++) tell(uri, $i) }'
}

# What the base asks, too: the release first, then what changes after it.
if [ -n "${DEBIAN_MIRROR:-}" ]; then
    sources="$DEBIAN_MIRROR $codename"
else
    sources=$(sources "$here" "$here-updates" "$here-security" | sed "s/ $here/ $codename/")
fi
mirror=$(echo "$sources" | awk -v want="$codename" '$2 == want { print $1 }')
[ -n "$mirror" ] || die "no apt source for ${here:-a Debian release} in /etc/apt; add one, or name one: DEBIAN_MIRROR=http://…; then run this again"

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
echo "$sources" | sed 's|//[^/]*@|//|; s/.*/deb & main/' >"$fs/etc/apt/sources.list" # without a password that the mirror wants
tar -C "$fs" --numeric-owner -c . | docker import \
    --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$image" >/dev/null
say "made $image: $(docker image inspect --format '{{.Size}}' "$image" | awk '{printf "%d MB", $1 / 1e6}')"
echo "$image"
