"""Which model the demo uses: a live one as soon as ridges.toml offers one that can be asked."""

import msgspec
import pytest

from ridges.cli.config import Config, live_model

REPLAY = {"name": "replay", "kind": "replay", "model": [{"name": "recorded"}]}
OPEN = {"name": "local", "kind": "openai", "base_url": "http://127.0.0.1:11434/v1", "model": [{"name": "local-1"}]}
KEYED = {"name": "far", "kind": "openai", "key_env": "FAR_KEY", "model": [{"name": "far-1"}, {"name": "far-2"}]}
EMBEDDER = {"name": "vectors", "kind": "openai", "model": [{"name": "embed-1", "kind": "embedding"}]}

CASES = {
    "no provider": ([], {}, None, None),
    "recordings only": ([REPLAY], {}, None, None),
    "a URL without a key": ([REPLAY, OPEN], {}, None, "local-1"),
    "a key that is set": ([REPLAY, KEYED], {"FAR_KEY": "sk"}, None, "far-1"),
    "a key that is not set": ([REPLAY, KEYED], {}, None, None),
    "an empty key": ([REPLAY, KEYED], {"FAR_KEY": ""}, None, None),
    "the next one, when the first has no key": ([KEYED, OPEN], {}, None, "local-1"),
    "embeddings are no chat model": ([EMBEDDER], {}, None, None),
    "the model that is configured for runs": ([REPLAY, OPEN], {}, "my-model", "my-model"),
    "a provider without models": ([{"name": "x", "kind": "openai"}], {}, None, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_model_of_the_demo(case, monkeypatch):
    providers, environment, configured, expected = CASES[case]
    monkeypatch.delenv("FAR_KEY", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = msgspec.convert({"provider": providers, "run": {"model": configured}}, Config)
    assert live_model(config) == expected
