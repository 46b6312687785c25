#!/bin/sh
# Makes the lock of Debian's packages anew, for the release of the base, and says what changed.
# usage: ./just lock-debian [ARCHITECTURE]     BASE_IMAGE=… names the base, whose apt sources are asked
set -eu

cd "$(dirname -- "$0")/../.."

die() { printf 'lock-debian: %s\n' "$*" >&2; exit 3; }

. infra/images/choose-base.sh
exec .venv/bin/python infra/images/debian.py lock "$base" "$@"
