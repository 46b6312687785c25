# `./just` alone lists the recipes. Each of them brings .venv up to date first.
set positional-arguments
set shell := ["sh", "-eu", "-c"]

bin := justfile_directory() / ".venv/bin"

_default:
    @just --list

# make .venv (and .venv-agent for sandboxes without an image) from the locks; does nothing when nothing changed
[group('start')]
sync:
    @infra/dev/sync.sh

# run the example agent on the example problems: embedded servers, recorded model replies, no key
[group('start')]
[no-cd]
[no-exit-message]
demo *args: sync
    @"{{bin}}/ridges" demo "$@"

# run the command-line program: ./just ridges run -a AGENT.py -p PROBLEM
[group('start')]
[no-cd]
[no-exit-message]
ridges *args: sync
    @"{{bin}}/ridges" "$@"

# everything that must hold: lint, types, layers, dependencies, tests
[group('check')]
[no-exit-message]
test *args: lint types layers deps
    "{{bin}}/python" -m pytest "$@"

# style and format
[group('check')]
lint: sync
    "{{bin}}/ruff" check .
    "{{bin}}/ruff" format --check .

# static types of all src
[group('check')]
types: sync
    "{{bin}}/mypy" contracts/src chassis/src cli/src services/*/src

# the layers inside and between the services
[group('check')]
layers: sync
    "{{bin}}/lint-imports"

# each distribution declares what it imports, and nothing else
[group('check')]
deps: sync
    infra/dev/deps.sh

# figures for the documents, never pass or fail: ./just bench whole_runs.py --sandbox docker; without a name it lists them
[group('check')]
[no-exit-message]
bench *args: sync
    @if [ $# -eq 0 ]; then cd tests/bench && ls *.py *.sh */compare.py */figures.py; else script=$1; shift; "{{bin}}/python" "tests/bench/$script" "$@"; fi

# all four services on a virtual clock over a log with seeded faults: ./just simulate --seed 5 --trace shows one seed's every step
[group('check')]
[no-exit-message]
simulate *args: sync
    @cd tests && PYTHONHASHSEED=0 "{{bin}}/python" -m simulation "$@"

# rewrite files to the house format
[group('write')]
fmt: sync
    "{{bin}}/ruff" check --fix .
    "{{bin}}/ruff" format .

# solve requirements.lock anew; pins that still fit stay (--upgrade moves all of them)
[group('write')]
lock *args:
    infra/dev/lock.sh "$@"

# pin the agent image's Debian packages anew for the release of BASE_IMAGE, and say what changed (needs an engine)
[group('write')]
lock-debian *args: sync
    infra/images/lock.sh "$@"

# container images: the agent's, the four services', nats; BASE_IMAGE names the base
[group('infra')]
images *args: sync
    infra/images/build.sh "$@"

# remove what the recipes made: environments, caches, build contexts (.tools stays, it runs this)
[group('infra')]
clean:
    rm -rf .venv .venv-agent .build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
    find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
