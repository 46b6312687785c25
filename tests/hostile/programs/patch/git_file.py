"""Puts something else in the place of .git: a file that points elsewhere, a link, a pipe."""

import os
import shutil

os.chdir("/sandbox/repo")
shutil.rmtree(".git")
with open(".git", "w") as file:
    file.write("gitdir: /etc\n")
os.makedirs("sub2")
os.symlink("/", "sub2/.git")
os.mkdir("sub3")
os.mkfifo("sub3/.git")
with open("a.txt", "a") as file:
    file.write("honest\n")
