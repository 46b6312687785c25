"""Talks on both streams, too much, and in bytes that are no text."""

import subprocess
import sys


def agent_main(problem):
    print("LOST", flush=True)
    for _ in range(600):
        sys.stdout.write("ü" * 999 + "\n")
    sys.stdout.flush()
    for number in range(10):
        stream = sys.stdout if number % 2 else sys.stderr
        stream.write(f"<{number}>")
        stream.flush()
    subprocess.run(["bash", "-c", "printf '<child-out>'; printf '<child-err>' >&2"], check=True)
    sys.stdout.buffer.write(b"[\xff\xfe\x00\xc3]\n")
    sys.stdout.buffer.flush()
    print("OBSERVED {}")
    print("THE END", flush=True)
    return ""
