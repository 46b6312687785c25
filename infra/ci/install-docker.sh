#!/bin/sh
# Makes `docker info` answer on a bare Debian or Ubuntu machine. Run as root; running it again is harmless.
set -eu

SOCKET=/var/run/docker.sock
LOG=${RIDGES_DOCKERD_LOG:-/var/log/dockerd.log}
WAIT_S=60

say() { printf 'install-docker: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
engine_answers() { timeout 10 docker info >/dev/null 2>&1; }

if command -v docker >/dev/null 2>&1 && engine_answers; then
    say "an engine answers already: $(docker version --format '{{.Server.Version}}')"
    exit 0
fi

[ "$(id -u)" = 0 ] || die "root is needed to install the engine; mend: sudo sh $0"

if ! command -v dockerd >/dev/null 2>&1; then
    command -v apt-get >/dev/null 2>&1 || die "no apt-get here; install Docker Engine 20.10 or newer by hand, then run this again"
    say "installing docker.io"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || say "apt-get update failed; going on with the lists at hand"
    apt-get install -y -qq --no-install-recommends docker.io iptables >&2 ||
        die "apt-get could not install docker.io; look at the lines above"
fi

has_systemd() { [ -d /run/systemd/system ]; }

start_with_systemd() { systemctl enable --now docker >&2; }

# A pid file outlives a killed daemon, and its number may be another process's by now: both daemons would refuse to start.
drop_stale_pid_file() {
    if [ -f "$1" ] && ! grep -qs "^$2" "/proc/$(cat "$1")/comm"; then rm -f "$1"; fi
}

start_by_hand() {
    drop_stale_pid_file /var/run/docker.pid dockerd
    if [ -f /var/run/docker.pid ]; then
        say "dockerd runs already as pid $(cat /var/run/docker.pid)"
        return
    fi
    drop_stale_pid_file /var/run/docker/containerd/containerd.pid containerd
    say "starting dockerd, log in $LOG"
    setsid nohup dockerd --host "unix://$SOCKET" >>"$LOG" 2>&1 </dev/null &
}

if ! engine_answers; then
    if has_systemd; then start_with_systemd; else start_by_hand; fi
fi

waited=0
until engine_answers; do
    [ "$waited" -lt "$WAIT_S" ] || {
        if [ -f "$LOG" ]; then tail -n 20 "$LOG" >&2; fi
        die "the engine did not answer within $WAIT_S s; its last words are above (or: journalctl -u docker)"
    }
    sleep 1
    waited=$((waited + 1))
done
say "ready: engine $(docker version --format '{{.Server.Version}}'), $(docker info --format 'storage {{.Driver}}, cgroup v{{.CgroupVersion}}')"
