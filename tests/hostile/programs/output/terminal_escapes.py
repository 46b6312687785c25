"""Raises an error whose text takes over a terminal."""


def agent_main(problem):
    raise RuntimeError("\x1b[2J\x1b]52;c;ZXZpbA==\x07\x1b]8;;http://evil\x07click\x9b31m\u202egnp.exe" + "A" * 100_000)
