"""A tree too deep for any path, with a loop of links at its end, where a result is expected."""

import os

os.chdir("/sandbox")
os.mkdir("deep")
os.chdir("deep")
for _ in range(3000):
    os.mkdir("d" * 20)
    os.chdir("d" * 20)
os.symlink("/sandbox/deep", "loop")
with open("bottom", "w") as file:
    file.write("x")
print("dug", flush=True)
