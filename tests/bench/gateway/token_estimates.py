"""How far the token estimate is off, against tokenizers that ship their vocabulary (no download).

Run with a Python that has them, apart from the project's: pip install tiktoken litellm==1.80.0 mistral-common
    python tests/bench/gateway/token_estimates.py
"""

import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
KINDS = {
    "code": (".py", ".c", ".js", ".sh", ".html", ".css"),
    "text": (".md", ".txt"),
    "data": (".json", ".jsonl", ".toml", ".yaml", ".lock"),
}
MOST_FILES = 250
MOST_CHARS = 60_000
SMALLEST = 500


def tokenizers():
    """Name -> count. litellm ships tiktoken's vocabularies, mistral-common its own."""
    os.environ["TIKTOKEN_CACHE_DIR"] = f"{_folder('litellm')}/litellm_core_utils/tokenizers"
    import tiktoken
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    tekken = Tekkenizer.from_file(f"{_folder('mistral_common')}/data/tekken_240911.json")
    counts = {"tekken": lambda text: len(tekken.encode(text, bos=False, eos=False))}
    for name in ("o200k_base", "cl100k_base"):
        encoding = tiktoken.get_encoding(name)
        counts[name] = lambda text, encoding=encoding: len(encoding.encode(text, disallowed_special=()))
    return counts


def _folder(package):
    return Path(find_spec(package).origin).parent


def texts_of(endings):
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / name for name in listed if name.endswith(endings)]
    return [path.read_text()[:MOST_CHARS] for path in paths if path.is_file() and path.stat().st_size > SMALLEST][
        :MOST_FILES
    ]


def main():
    sys.path.insert(0, str(ROOT / "services/gateway/src"))
    from ridges.gateway.token_estimate import count_tokens

    counts = tokenizers()
    print("kind  tokenizer    files  mean off  95 % within  in sum   bytes/4: mean off")
    for kind, endings in KINDS.items():
        texts = texts_of(endings)
        guesses = [count_tokens(text) for text in texts]
        for name, count in counts.items():
            true = [count(text) for text in texts]
            off = sorted(abs(guess / exact - 1) for guess, exact in zip(guesses, true, strict=True))
            rough = [abs(len(text.encode()) / 4 / exact - 1) for text, exact in zip(texts, true, strict=True)]
            in_sum = sum(guesses) / sum(true) - 1
            print(
                f"{kind:5} {name:12} {len(texts):5} {statistics.mean(off):9.1%} {off[int(0.95 * len(off))]:11.1%} "
                f"{in_sum:+8.1%} {statistics.mean(rough):12.1%}"
            )


if __name__ == "__main__":
    main()
