#!/usr/bin/env bash
# The long form of what CI runs in short: a hundred kills under load, and seeds that nobody has played yet.
# About 35 minutes on two cores: 40,000 seeds take 23, a hundred kills 9.
# On a machine as for .ci/run. Every failure prints the command that plays it again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec </dev/null
export CI=true RIDGES_KILLS=${RIDGES_KILLS:-100}
first=$((10#$(date +%j) * 100000))
export RIDGES_SEEDS=${RIDGES_SEEDS:-$first:$((first + 40000))}

./just sync
echo "=== seeds $RIDGES_SEEDS, $RIDGES_KILLS kills"
.venv/bin/python -m pytest tests/simulation tests/e2e/test_kill_storm.py tests/conformance/test_disk_full.py \
    tests/conformance/test_power_cut.py tests/integration/test_ledger_disk_full.py "$@"
