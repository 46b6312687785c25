"""Writes its own report and is gone before the runner can: JSON nested a million times."""

import os

with open("/sandbox/output.json", "w") as file:
    file.write('{"success": true, "output": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}")
os._exit(0)
