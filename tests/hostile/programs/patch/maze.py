"""Builds a repository that is hard to walk: very deep, very wide, looping, unreadable, with names of every byte."""

import os

os.chdir("/sandbox/repo")
for number in range(3000):
    with open(f"wide-{number}", "w") as file:
        file.write("x")
for name in (b"new\nline", b"\xff\xfe", b'quo"te', b"\x1b[2J", b"-rf", b":(exclude)x"):
    with open(name, "w") as file:
        file.write("odd")
os.symlink(".", "loop")
os.symlink("/", "everything")
os.mkfifo("pipe")
os.mkdir("closed")
open("closed/x", "w").close()
os.chmod("closed", 0)
open("unreadable", "w").close()
os.chmod("unreadable", 0)
for _ in range(1500):
    os.mkdir("deeper")
    os.chdir("deeper")
open("bottom", "w").close()
print("built", flush=True)
