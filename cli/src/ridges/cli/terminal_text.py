"""Text from hostile agents, made safe for a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


def printable(text: str) -> str:
    """The text without terminal escapes and other control characters (new lines and tabs stay)."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def safe(text: str, style: str = "") -> "Text":
    """The text for a table cell: no escapes, no markup."""
    from rich.text import Text  # 20 ms that errors and messages need not wait for

    return Text(printable(text), style=style)
