"""HTML that cannot be injected into: every text and attribute is escaped unless it was made here."""

import html

VOID = frozenset({"meta", "link", "br"})


class Markup(str):
    """Finished HTML. Only this module makes it."""

    __slots__ = ()


Child = str | int | None
"""Text (escaped), a number, nothing, or Markup (as it is)."""


def tag(name: str, /, *children: Child, **attributes: str | None) -> Markup:
    """An element. ``class_`` stands for the attribute ``class``; an attribute that is None is left out."""
    rendered = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{rendered}>")
    return Markup(f"<{name}{rendered}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """The children one after the other."""
    return Markup("".join(_render(child) for child in children))


def document(title: str, *body: Child, refresh_s: int | None = None) -> bytes:
    """A whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        None if refresh_s is None else tag("meta", http_equiv="refresh", content=str(refresh_s)),
        tag("title", title),
        tag("link", rel="stylesheet", href="/style.css"),
    )
    return ("<!doctype html>" + tag("html", head, tag("body", *body), lang="en")).encode("utf-8", "replace")


def _render(child: Child) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Markup) else html.escape(str(child), quote=True)
