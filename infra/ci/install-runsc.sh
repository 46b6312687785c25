#!/bin/sh
# Makes gVisor's runtime `runsc` available to tests that start an engine of their own with it. Run as root; running it again
# is harmless. Where the release has no package for it, it says so and the tests that need it are skipped.
set -eu

say() { printf 'install-runsc: %s\n' "$*" >&2; }

if command -v runsc >/dev/null 2>&1; then
    say "there already: $(runsc --version | head -n 1)"
    exit 0
fi
[ "$(id -u)" = 0 ] || { say "root is needed to install it; mend: sudo sh $0"; exit 1; }
export DEBIAN_FRONTEND=noninteractive
if command -v apt-get >/dev/null 2>&1 && apt-get install -y -qq --no-install-recommends runsc >&2; then
    say "ready: $(runsc --version | head -n 1)"
else
    say "no package runsc here; without it the tests with gVisor are skipped (gvisor.dev/docs/user_guide/install)"
fi
