"""A report of huge numbers, half characters, doubled keys, and no number at all."""

import os

with open("/sandbox/output.json", "w") as file:
    file.write('{"success": true, "success": 1e999, "output": "\\ud800", "error": NaN, "x": ' + "9" * 100_000 + "}")
os._exit(0)
