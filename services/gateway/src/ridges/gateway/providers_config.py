"""ridges.toml -> providers, models and prices. A mistake is told with file, line and key; no price stays unknown."""

import glob
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ridges.contracts.money import MoneyError, nano_usd, usd
from ridges.contracts.usage import TokenPrice, price_list_id
from ridges.gateway.calls import LimitField
from ridges.gateway.unpriced import IN_TOOLS, KNOWN

OTHER_TABLES = frozenset({"ports", "problems", "run", "sandbox"})
"""Tables of ridges.toml that belong to other services."""

WEB_SEARCH = ":online"
"""Source: OpenRouter; the same as its plugin ``web``."""
NO_ADDRESS = "is no address; it looks like https://host:port/v1"
OPENAI_HOST = "api.openai.com"
"""Its newer models refuse ``max_tokens``; elsewhere that is the name that every server knows."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class ConfigError(Exception):
    """ridges.toml cannot be used. The message names file, line, key, and what to write instead."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one provider."""

    name: str
    """Public name: what agents ask for."""
    served: str
    """The provider's own name for it."""
    kind: Literal["chat", "embedding"]
    context: int
    """Most tokens of prompt and output together."""
    max_output: int
    """Most output tokens of one answer, reasoning included: what a call without a limit of its own reserves."""
    price: TokenPrice
    image_tokens: int = 3_000
    """Most tokens of one image."""

    @property
    def input_usd(self) -> Decimal:
        """Per million tokens."""
        return usd(self.price.input)

    @property
    def output_usd(self) -> Decimal:
        """Per million tokens."""
        return usd(self.price.output)


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One place that serves models."""

    name: str
    kind: Literal["openai", "replay"]
    base_url: str | None
    key: str | None
    """Secret: only ever sent to this provider."""
    recordings: tuple[Path, ...]
    weight: float
    timeout_s: float
    """Of one attempt as a whole, streamed or not."""
    max_concurrency: int
    models: tuple[Model, ...]
    connect_timeout_s: float = 10.0
    first_token_timeout_s: float | None = None
    """Of streams: until the first event. Null = ``timeout_s``."""
    idle_timeout_s: float | None = None
    """Of streams: the longest silence after the first byte. Null = the gateway's setting."""
    max_queue: int = 1_000
    """Calls that may wait for a slot."""
    record: Path | None = None
    """Answers are added to this file, for ``replay``."""
    output_limit_field: LimitField = "max_tokens"
    """Where this provider reads the most output tokens of an answer."""
    forbidden_fields: frozenset[str] = frozenset()
    """More fields that this provider must not get: calls with one of them go to other providers, or are refused."""
    allow_unpriced: frozenset[str] = frozenset()
    """What it may be asked for although no price covers it: fields, ``tools.<type>``, ``content.<type>``."""

    def __repr__(self) -> str:
        return f"Provider({self.name!r}, {self.kind!r})"


class ProvidersConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All providers and the id of the price list that they make up together."""

    providers: tuple[Provider, ...]
    price_list: str


class _ModelTable(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    served: Name | None = None
    kind: Literal["chat", "embedding"] = "chat"
    context: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    max_output: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    input_usd: str | UnsetType = UNSET
    output_usd: str | UnsetType = UNSET
    cached_input_usd: str | UnsetType = UNSET
    reasoning_usd: str | UnsetType = UNSET
    second_usd: str | UnsetType = UNSET
    image_tokens: Annotated[int, Meta(ge=1)] = 3_000


class _ProviderTable(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    kind: Literal["openai", "replay"]
    base_url: Annotated[str, Meta(pattern=r"^https?://.+")] | None = None
    key_env: Name | None = None
    recordings: list[str] = []
    weight: Annotated[float, Meta(gt=0)] = 1.0
    timeout_s: Annotated[float, Meta(gt=0)] = 300.0
    connect_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    first_token_timeout_s: Annotated[float, Meta(gt=0)] | None = None
    idle_timeout_s: Annotated[float, Meta(gt=0)] | None = None
    max_concurrency: Annotated[int, Meta(ge=1)] = 64
    max_queue: Annotated[int, Meta(ge=0)] = 1_000
    record: Name | None = None
    output_limit_field: LimitField | None = None
    forbidden_fields: tuple[str, ...] = ()
    allow_unpriced: tuple[str, ...] = ()
    model: Annotated[list[_ModelTable], Meta(min_length=1)] | UnsetType = UNSET


def load_providers(path: Path, environ: Mapping[str, str] = os.environ) -> ProvidersConfig:
    """The providers in the file. Relative paths resolve against the file's folder.

    Raises:
        ConfigError: anything at all is wrong; the gateway must not start with it.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); RIDGES_CONFIG must name a ridges.toml") from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    return _Reader(path, text, environ).read(tables)


class _Reader:
    """One file on its way to a config; knows where things stand, for the error texts."""

    def __init__(self, path: Path, text: str, environ: Mapping[str, str]) -> None:
        self._path, self._lines, self._environ = path, text.splitlines(), environ

    def read(self, tables: dict[str, Any]) -> ProvidersConfig:
        unknown = sorted(set(tables) - OTHER_TABLES - {"provider"})
        if unknown:
            raise self._error((), unknown[0], "unknown; known are [[provider]], [problems], [sandbox] and [ports]")
        entries = tables.get("provider")
        if not isinstance(entries, list) or not entries:
            raise ConfigError(f"{self._path}: no [[provider]]; add at least one provider with a [[provider.model]]")
        providers = tuple(self._provider(number, entry) for number, entry in enumerate(entries))
        names = [provider.name for provider in providers]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise self._error((number,), "name", f"{name!r} is the name of another provider already")
        return ProvidersConfig(providers=providers, price_list=_price_list_id(providers))

    def _provider(self, number: int, entry: object) -> Provider:
        table = self._fitted(number, entry)
        if table.model is UNSET:
            raise self._error((number,), "name", f"provider {table.name!r} has no [[provider.model]]")
        self._check_kind(number, table)
        self._check_unpriced(number, table, table.model)
        models = tuple(self._model((number, index), model) for index, model in enumerate(table.model))
        for index, model in enumerate(models):
            if any((model.name, model.kind) == (other.name, other.kind) for other in models[:index]):
                raise self._error((number, index), "name", f"{model.name!r} is listed twice for {table.name!r}")
        return Provider(
            name=table.name,
            kind=table.kind,
            base_url=table.base_url.rstrip("/") if table.base_url else None,
            key=self._key(number, table),
            recordings=self._recordings(number, table),
            weight=table.weight,
            timeout_s=table.timeout_s,
            max_concurrency=table.max_concurrency,
            models=models,
            connect_timeout_s=table.connect_timeout_s,
            first_token_timeout_s=table.first_token_timeout_s,
            idle_timeout_s=table.idle_timeout_s,
            max_queue=table.max_queue,
            record=self._path.parent / table.record if table.record else None,
            output_limit_field=table.output_limit_field or _limit_field(table.base_url),
            forbidden_fields=frozenset(table.forbidden_fields),
            allow_unpriced=frozenset(table.allow_unpriced),
        )

    def _fitted(self, number: int, entry: object) -> _ProviderTable:
        try:
            return msgspec.convert(entry, _ProviderTable)
        except msgspec.ValidationError as error:
            raise self._misfit(number, str(error)) from error

    def _check_kind(self, number: int, table: _ProviderTable) -> None:
        if table.kind == "openai" and table.base_url is None:
            raise self._error((number,), "kind", f'provider {table.name!r} needs base_url = "https://…/v1"')
        if table.base_url is not None and (wrong := _wrong_with(table.base_url)):
            raise self._error((number,), "base_url", wrong)
        if table.kind == "openai" and table.recordings:
            raise self._error((number,), "recordings", 'is for kind = "replay" only')
        if table.kind == "replay":
            for key in ("base_url", "key_env", "record"):
                if getattr(table, key):
                    raise self._error((number,), key, 'is for kind = "openai" only')

    def _check_unpriced(self, number: int, table: _ProviderTable, models: list[_ModelTable]) -> None:
        for name in table.allow_unpriced:
            if name not in KNOWN and not name.startswith(IN_TOOLS):
                known = f"tools.<type>, {', '.join(sorted(KNOWN))}"
                raise self._error((number,), "allow_unpriced", f"{name!r} is not known; known are {known}")
        for index, model in enumerate(models):
            if (model.served or model.name).endswith(WEB_SEARCH) and "plugins" not in table.allow_unpriced:
                key, allowing = "served" if model.served else "name", 'allow_unpriced = ["plugins"]'
                told = f"with {WEB_SEARCH} each call pays for a web search, which has no price: leave it, or {allowing}"
                raise self._error((number, index), key, told)

    def _key(self, number: int, table: _ProviderTable) -> str | None:
        if table.key_env is None:
            return None
        key = self._environ.get(table.key_env, "").strip()
        if not key:
            raise self._error((number,), "key_env", f"the environment variable {table.key_env} is not set or empty")
        if not (key.isascii() and key.isprintable()):
            told = f"the variable {table.key_env} holds what no key has: line ends or letters beyond ASCII"
            raise self._error((number,), "key_env", told)
        return key

    def _recordings(self, number: int, table: _ProviderTable) -> tuple[Path, ...]:
        found: list[Path] = []
        for pattern in table.recordings:
            matches = sorted(glob.glob(pattern, root_dir=self._path.parent, recursive=True))  # noqa: PTH207 - any root
            if not matches and not glob.has_magic(pattern):
                raise self._error((number,), "recordings", f"there is no file {self._path.parent / pattern}")
            found.extend(self._path.parent / match for match in matches)
        return tuple(dict.fromkeys(found))

    def _model(self, place: tuple[int, int], table: _ModelTable) -> Model:
        if table.context is UNSET:
            raise self._error(place, "context", f"missing for {table.name!r}: the most tokens it takes, e.g. 128000")
        max_output = 0
        if table.kind == "chat":
            if table.max_output is UNSET:
                raise self._error(place, "max_output", f"missing for {table.name!r}: its longest answer, e.g. 16384")
            max_output = table.max_output
        by_time = table.second_usd is not UNSET
        if by_time:
            self._check_second_price(place, table)
        input_price = 0 if by_time else self._price(place, table, "input_usd")
        output_price = self._price(place, table, "output_usd") if table.kind == "chat" else 0
        cached, reasoning = table.cached_input_usd, table.reasoning_usd
        return Model(
            name=table.name,
            served=table.served or table.name,
            kind=table.kind,
            context=table.context,
            max_output=max_output,
            image_tokens=table.image_tokens,
            price=TokenPrice(
                input=input_price,
                output=output_price,
                cached_input=input_price if cached is UNSET else self._price(place, table, "cached_input_usd"),
                reasoning=output_price if reasoning is UNSET else self._price(place, table, "reasoning_usd"),
                per_second=self._price(place, table, "second_usd") if by_time else 0,
            ),
        )

    def _check_second_price(self, place: tuple[int, int], table: _ModelTable) -> None:
        if table.kind != "embedding":
            raise self._error(place, "second_usd", 'is for kind = "embedding" only')
        for key in ("input_usd", "output_usd", "cached_input_usd", "reasoning_usd"):
            if getattr(table, key) is not UNSET:
                raise self._error(place, key, "a model is priced by token or by second, not both")

    def _price(self, place: tuple[int, int], table: _ModelTable, key: str) -> int:
        text = getattr(table, key)
        if text is UNSET:
            raise self._error(place, key, f'missing for {table.name!r}: USD per million tokens, e.g. {key} = "0.15"')
        try:
            return nano_usd(text)
        except MoneyError as error:
            raise self._error(place, key, str(error)) from error

    def _misfit(self, number: int, message: str) -> ConfigError:
        """The message of msgspec with the line in front; its path is like ``$.model[2].input_usd``."""
        where = re.search(r" - at `\$([^`]*)`$", message)
        path = where.group(1) if where else ""
        told = message[: where.start()] if where else message
        in_model = re.match(r"\.model\[(\d+)\]", path)
        place = (number, int(in_model.group(1))) if in_model else (number,)
        unknown = re.search(r"unknown field `([^`]*)`", told) or re.search(r"missing required field `([^`]*)`", told)
        key = unknown.group(1) if unknown else re.sub(r"\[[^\]]*\]", "", path).rpartition(".")[2]
        if key.endswith("_usd") and "Expected `str`" in told:
            told = f'prices are text, so that they stay exact: {key} = "0.15"'
        return self._error(place, key, told)

    def _error(self, place: tuple[int, ...], key: str, message: str) -> ConfigError:
        return ConfigError(f"{self._path}, line {self._line_of(place, key)}: {key}: {message}")

    def _line_of(self, place: tuple[int, ...], key: str) -> int:
        """The line of the key in the n-th provider (and its m-th model), else of that table's head; 1-based."""
        here: tuple[int, ...] = ()
        head = 1
        for number, line in enumerate(self._lines, start=1):
            table = re.match(r"\s*\[\[?\s*([\w.\"' -]+?)\s*\]\]?", line)
            if table:
                here = _next_place(here, table.group(1))
                head = number if here == place else head
                if not place and table.group(1).split(".")[0] == key:
                    return number
            elif here == place and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return number
        return head


def _wrong_with(url: str) -> str | None:
    """Why requests cannot be sent there. Tells no password."""
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            return "holds a user or a password, which are not sent; a key comes from key_env"
        if not parts.hostname or parts.port == 0:
            return f"{url!r} {NO_ADDRESS}"
        if not parts.hostname.isascii():
            return f"{url!r} has a host beyond ASCII; write it as {parts.hostname.encode('idna').decode()}"
    except ValueError:  # of the port, of an IPv6 address, or of a name that is none
        return f"{url!r} {NO_ADDRESS}"
    if not all("!" <= character <= "~" for character in url):
        return f"{url!r} has characters that stand in no address; write them as % and their code: /my%20models/v1"
    return f"{url!r} has a # part, which is not sent" if parts.fragment else None


def _limit_field(base_url: str | None) -> LimitField:
    at_openai = base_url is not None and urlsplit(base_url).hostname == OPENAI_HOST
    return "max_completion_tokens" if at_openai else "max_tokens"


def _next_place(here: tuple[int, ...], table: str) -> tuple[int, ...]:
    if table == "provider":
        return (here[0] + 1,) if here else (0,)
    if table == "provider.model" and here:
        return (here[0], here[1] + 1) if len(here) == 2 else (here[0], 0)
    return here


def _price_list_id(providers: tuple[Provider, ...]) -> str:
    return price_list_id({f"{each.name}/{model.served}": model.price for each in providers for model in each.models})
