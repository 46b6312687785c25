"""Calls ``sys.exit`` while it is imported."""

import sys

print("before the exit", flush=True)
sys.exit("no key, no work")


def agent_main(problem):
    return ""
