"""Returns a patch of thirty megabytes, most of which compresses to nothing."""


def agent_main(problem):
    return "diff --git a/x b/x\n" + "+" + "0" * 30_000_000
