"""ridges.toml: what is wrong is told with file, line and key."""

from decimal import Decimal
from pathlib import Path

import pytest

from ridges.gateway.providers_config import ConfigError, load_providers
from ridges.gateway.unpriced import UNPRICED_FIELDS, UNPRICED_PARTS

MODEL = """
[[provider.model]]
name = "m"
context = 1000
max_output = 100
input_usd = "0.15"
output_usd = "0.60"
"""
HEAD = '[[provider]]\nname = "p"\nkind = "openai"\nbase_url = "https://x/v1/"\n'
GOOD = HEAD + MODEL


def load(tmp_path, text, environ=None):
    path = tmp_path / "ridges.toml"
    path.write_text(text)
    return load_providers(path, environ or {})


def test_a_good_file(tmp_path):
    config = load(tmp_path, GOOD + "\n[problems]\ndirs = []\n[sandbox]\nslots = 4\n[ports]\nnats = 4222\n")
    (known,) = config.providers
    (model,) = known.models
    assert (known.name, known.base_url, known.weight, known.key) == ("p", "https://x/v1", 1.0, None)
    assert (model.name, model.served, model.input_usd, model.output_usd) == ("m", "m", Decimal("0.15"), Decimal("0.6"))
    assert (model.price.cached_input, model.price.reasoning) == (model.price.input, model.price.output)


@pytest.mark.parametrize(
    ("url", "extra", "field"),
    [
        ("https://x/v1", "", "max_tokens"),
        ("https://api.openai.com/v1", "", "max_completion_tokens"),
        ("https://api.openai.com/v1", 'output_limit_field = "max_tokens"\n', "max_tokens"),
    ],
)
def test_the_field_of_the_output_limit(tmp_path, url, extra, field):
    (known,) = load(tmp_path, HEAD.replace("https://x/v1/", url) + extra + MODEL).providers
    assert known.output_limit_field == field


def test_what_has_no_price_is_allowed_by_name(tmp_path):
    assert load(tmp_path, GOOD).providers[0].allow_unpriced == set()
    keys = 'forbidden_fields = ["seed"]\nallow_unpriced = ["models", "tools.web_search", "content.file"]\n'
    allowed = load(tmp_path, HEAD + keys + MODEL + "image_tokens = 800\n").providers[0]
    assert (allowed.forbidden_fields, allowed.models[0].image_tokens) == ({"seed"}, 800)
    assert allowed.allow_unpriced == {"models", "tools.web_search", "content.file"}


def test_every_name_is_documented():
    errors = Path(__file__).parents[3] / "services/gateway/ERRORS.md"
    told = errors.read_text(encoding="utf-8").split("## Unpriced")[1]
    missing = [name for name in UNPRICED_FIELDS | UNPRICED_PARTS if f"`{name}`" not in told]
    assert not missing


@pytest.mark.parametrize("name", ["seed", "file", "web_search", "content.text"])
def test_a_name_that_allows_nothing_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"line \d+: allow_unpriced: '{name}' is not known; known are"):
        load(tmp_path, HEAD + f'allow_unpriced = ["{name}"]\n' + MODEL)


@pytest.mark.parametrize("key", ["name", "served"])
def test_a_model_that_searches_the_web_has_no_price(tmp_path, key):
    online = MODEL + 'served = "x:online"\n' if key == "served" else MODEL.replace('name = "m"', 'name = "m:online"')
    with pytest.raises(ConfigError, match=rf"line \d+: {key}: with :online each call pays for a web search"):
        load(tmp_path, HEAD + online)
    load(tmp_path, HEAD + 'allow_unpriced = ["plugins"]\n' + online)


def test_the_price_list_is_named_by_its_prices(tmp_path):
    first, again = load(tmp_path, GOOD).price_list, load(tmp_path, GOOD + "\n[problems]\n").price_list
    assert first == again
    assert first != load(tmp_path, GOOD.replace("0.15", "0.16")).price_list


def test_a_key_comes_from_the_environment_and_stays_out_of_texts(tmp_path):
    config = load(tmp_path, GOOD.replace("[[provider.model]]", 'key_env = "K"\n[[provider.model]]', 1), {"K": "sk-1"})
    assert config.providers[0].key == "sk-1"
    assert "sk-1" not in repr(config)


@pytest.mark.parametrize("key", ["sk-secret\r\nX-Admin: 1", "sk-secrét"])
def test_a_key_that_no_header_may_hold_is_refused_and_not_shown(tmp_path, key):
    keyed = HEAD + 'key_env = "K"\n' + MODEL
    with pytest.raises(ConfigError, match="key_env: the variable K holds") as caught:
        load(tmp_path, keyed, {"K": key})
    assert "secr" not in str(caught.value)


def test_a_password_in_an_address_is_not_shown(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace("https://x", "https://me:secret@x"))
    assert "secret" not in str(caught.value)


def test_recordings_resolve_against_the_file(tmp_path):
    (tmp_path / "rec").mkdir()
    for name in ("b", "a"):
        (tmp_path / "rec" / f"{name}.jsonl").touch()
    text = '[[provider]]\nname = "r"\nkind = "replay"\nrecordings = ["rec/*.jsonl", "rec/a.jsonl"]\n' + MODEL
    found = load(tmp_path, text).providers[0].recordings
    assert [path.relative_to(tmp_path) for path in found] == [Path("rec/a.jsonl"), Path("rec/b.jsonl")]


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("max_output", "max_ouput"), 9, "max_ouput: Object contains unknown field"),
        (("[[provider]]", "[[providers]]"), 1, "provider"),
        (('kind = "openai"', 'kind = "opanai"'), 3, "kind: Invalid enum value 'opanai'"),
        (('kind = "openai"', 'kind = "openai"\nretries = 3'), 4, "retries"),
        (('input_usd = "0.15"\n', ""), 6, "input_usd: missing for 'm'"),
        (('output_usd = "0.60"\n', ""), 6, "output_usd: missing for 'm'"),
        (('"0.15"', "0.15"), 10, 'prices are text, so that they stay exact: input_usd = "0.15"'),
        (('"0.15"', '"-1"'), 10, "input_usd: '-1' is not an amount of USD"),
        (('"0.15"', '"free"'), 10, "input_usd: 'free' is not an amount of USD"),
        (("context = 1000\n", ""), 6, "context: missing"),
        (("max_output = 100\n", ""), 6, "max_output: missing"),
        (("context = 1000", "context = 0"), 8, "context: Expected `int` >= 1"),
        (('base_url = "https://x/v1/"\n', ""), 3, "needs base_url"),
        (('"https://x/v1/"', '"https://x:port/v1"'), 4, "'https://x:port/v1' is no address"),
        (('"https://x/v1/"', '"https://x:99999/v1"'), 4, "'https://x:99999/v1' is no address"),
        (('"https://x/v1/"', '"https://[::1/v1"'), 4, "'https://[::1/v1' is no address"),
        (('"https://x/v1/"', '"https:///v1"'), 4, "'https:///v1' is no address"),
        (('"https://x/v1/"', '"https://bücher.example/v1"'), 4, "write it as xn--bcher-kva.example"),
        (('"https://x/v1/"', '"https://ỻ..example/v1"'), 4, "is no address"),
        (('"https://x/v1/"', '"https://x/my models/v1"'), 4, "characters that stand in no address"),
        (('"https://x/v1/"', '"https://x/v1#here"'), 4, "has a # part"),
        (('"https://x/v1/"', '"https://me:secret@x/v1"'), 4, "a key comes from key_env"),
        (
            ('base_url = "https://x/v1/"', 'base_url = "https://x/v1/"\nkey_env = "NO_KEY"'),
            5,
            "variable NO_KEY is not set",
        ),
        (("[[provider.model]]", "weight = 0\n[[provider.model]]"), 6, "weight: Expected `float` > 0"),
        ((MODEL, MODEL + MODEL), 14, "'m' is listed twice"),
        ((GOOD, GOOD + GOOD), 13, "'p' is the name of another provider"),
        ((MODEL, ""), 2, "has no [[provider.model]]"),
        ((HEAD, HEAD + 'recordings = ["x"]\n'), 5, "is for kind"),
        ((GOOD, GOOD + "\n[gateway]\nport = 1\n"), 13, "gateway: unknown; known are"),
    ],
)
def test_mistakes_name_file_line_and_key(tmp_path, change, line, words):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD.replace(*change))
    told = str(caught.value)
    assert told.startswith(f"{tmp_path / 'ridges.toml'}, line {line}: ")
    assert words in told


def test_broken_toml_names_the_line(tmp_path):
    with pytest.raises(ConfigError, match="at line 2"):
        load(tmp_path, "[[provider]]\nname = \n")


def test_no_file_and_no_provider_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"RIDGES_CONFIG must name a ridges\.toml"):
        load_providers(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="no \\[\\[provider\\]\\]"):
        load(tmp_path, "[problems]\n")


def test_a_named_recording_must_exist(tmp_path):
    text = '[[provider]]\nname = "r"\nkind = "replay"\nrecordings = ["none.jsonl"]\n' + MODEL
    with pytest.raises(ConfigError, match=r"line 4: recordings: there is no file .*none\.jsonl"):
        load(tmp_path, text)


def test_the_example_file_at_the_root_is_good(tmp_path):
    root = Path(__file__).resolve().parents[3]
    config = load_providers(root / "ridges.toml", {})
    assert config.providers[0].models[0].name == "ridges-replay-1"
