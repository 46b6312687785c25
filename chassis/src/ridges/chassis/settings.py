"""Settings of a service: one frozen Struct, read once from ``RIDGES_*`` variables."""

import ast
import inspect
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

PREFIX = "RIDGES_"
Settings = TypeVar("Settings", bound=msgspec.Struct)


class SettingsError(Exception):
    """A variable is missing or wrong. The message names each of them, what is wrong, and an example."""


def load(struct: type[Settings], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings from the environment. An empty variable counts as absent.

    Raises:
        SettingsError: print it and end with status 2.
    """
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for field in msgspec.structs.fields(struct):
        text = environ.get(variable_of(field.name), "").strip()
        try:
            if text:
                values[field.name] = _convert(text, field.type)
            elif field.required:
                wrong.append(_complaint(field, "is not set"))
        except (msgspec.ValidationError, ValueError) as error:
            wrong.append(_complaint(field, f"is {text!r}: {error}"))
    if not wrong:
        try:
            return struct(**values)
        except ValueError as error:
            wrong.append(str(error))
    raise SettingsError("; ".join(wrong))


def describe(struct: type[msgspec.Struct]) -> list[tuple[str, str, str, str]]:
    """(variable, type, default, meaning) of each setting; the default is empty where the variable is needed."""
    docs = _docs(struct)
    return [
        (variable_of(field.name), _type_text(field.type), _default_text(field), docs.get(field.name, ""))
        for field in msgspec.structs.fields(struct)
    ]


def variable_of(field_name: str) -> str:
    """``some_name`` -> ``RIDGES_SOME_NAME``."""
    return PREFIX + field_name.upper()


def _convert(text: str, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        return msgspec.convert(
            tuple(part.strip() for part in text.split(",") if part.strip()), kind, strict=False, dec_hook=_path
        )
    return msgspec.convert(text, kind, strict=False, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value).expanduser()
    raise NotImplementedError


def _complaint(field: msgspec.structs.FieldInfo, problem: str) -> str:
    name = variable_of(field.name)
    return f"{name} {problem}; it is {_type_text(field.type)}, for example {name}={_example(field)}"


def _example(field: msgspec.structs.FieldInfo) -> str:
    default = _default_text(field)
    if default:
        return default
    options = get_args(field.type)
    kinds = {field.type, *options}
    for kind, example in ((Path, "/var/lib/ridges"), (int, "1"), (float, "1.5"), (bool, "true")):
        if kind in kinds:
            return example
    return str(options[0]) if options and isinstance(options[0], str) else "text"


def _type_text(kind: Any) -> str:
    if kind is type(None):
        return "nothing"
    options = [option for option in get_args(kind) if option is not Ellipsis]
    if get_origin(kind) is tuple:
        return "comma-separated " + _type_text(options[0])
    if options and all(isinstance(option, str) for option in options):
        return " | ".join(options)
    if options:
        return " | ".join(_type_text(option) for option in options if option is not type(None))
    names = {str: "text", bool: "true | false", Path: "path", float: "number", int: "integer"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT or field.default is None:
        return ""
    if isinstance(field.default, tuple):
        return ",".join(map(str, field.default))
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)


def _docs(struct: type) -> dict[str, str]:
    """The string under each field, over all parents."""
    docs: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        if not issubclass(cls, msgspec.Struct) or cls is msgspec.Struct:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(inspect.cleandoc(text).split())
    return docs
