#!/bin/sh
# Runs in the base, without a network: installs what `wanted` names from the archive in this folder and from nowhere else.
# What the base has already stays as it is, unless something of the archive needs the archive's newer version of it.
# usage: install.sh [--print-uris]   The option prints what would be installed; then `Packages` is enough of an archive.
set -eu

folder=$(cd "$(dirname -- "$0")" && pwd)
export DEBIAN_FRONTEND=noninteractive

apt() { apt-get -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null "$@"; }

echo "deb [trusted=yes] file:$folder ./" >"$folder/sources.list" # trusted: every file was compared with the lock's SHA256
apt update -qq
# shellcheck disable=SC2046
apt install -q -y --no-install-recommends --no-upgrade --no-remove "$@" $(cat "$folder/wanted")
