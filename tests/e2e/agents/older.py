"""As agents of the first days are: more parameters, all with defaults, and a dict as the answer."""

import json


def agent_main(input_dict, repo_dir="repo", test_mode=False, *, verbose=None):
    print("OBSERVED " + json.dumps({"repo_dir": repo_dir, "test_mode": test_mode, "verbose": verbose}), flush=True)
    patch = "diff --git a/Änderung.txt b/Änderung.txt\nnew file mode 100644\n--- /dev/null\n+++ b/Änderung.txt\n"
    return {"patch": patch + "@@ -0,0 +1 @@\n+größer\n", "confidence": 0.9}


# This file is made exactly 2 MiB long by the test, with text that is not ASCII: ü
