"""Returns a patch of half characters and terminal controls."""


def agent_main(problem):
    return "diff --git a/x b/x\n\udfff\ud800\x1b[2J\x1b]0;title\x07\0"
