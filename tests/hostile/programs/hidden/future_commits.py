"""Looks for the future: refs, remotes, unreachable objects, packs, notes, times of files and commits."""

import os
import subprocess


def git(*arguments):
    return subprocess.run(["git", "-C", "/sandbox/repo", *arguments], capture_output=True, text=True).stdout.strip()


if git("rev-list", "--all", "--count") != "1":
    print("BROKE OUT: more than one commit", git("log", "--all", "--oneline"))
for what, arguments in {
    "remotes": ("remote", "-v"),
    "tags": ("tag",),
    "notes": ("notes",),
    "stashes": ("stash", "list"),
    "unreachable objects": ("fsck", "--unreachable", "--no-reflogs", "--lost-found"),
    "submodules": ("submodule", "status"),
    "replaced objects": ("replace", "-l"),
    "ignored files": ("status", "--porcelain", "--ignored"),
}.items():
    if found := git(*arguments):
        print("BROKE OUT:", what, found[:200])
if len(git("for-each-ref").splitlines()) != 1:
    print("BROKE OUT: refs", git("for-each-ref"))
objects = git("cat-file", "--batch-check", "--batch-all-objects", "--unordered")
reachable = git("rev-list", "--all", "--objects")
if len(objects.splitlines()) != len(reachable.splitlines()):
    print("BROKE OUT: objects that no commit needs")
for name in ("packed-refs", "FETCH_HEAD", "ORIG_HEAD", "shallow", "info/grafts", "objects/info/alternates", "logs/refs/stash"):
    path = f"/sandbox/repo/.git/{name}"
    if os.path.exists(path) and open(path).read().strip():
        print("BROKE OUT:", name, open(path).read()[:100])
print(git("log", "-1", "--format=%an %ad"), flush=True)
