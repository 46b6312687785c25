"""Requests from the ingress that were refused: kept, newest 1,000, in a file of their own (they are not in the log)."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ridges.contracts.views import Refusal

KEPT = 1_000
CONTENT_CHARS = 2_000

_TABLE = """
CREATE TABLE IF NOT EXISTS refusals (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery TEXT NOT NULL UNIQUE,
    received_at TEXT NOT NULL,
    subject TEXT NOT NULL,
    reason TEXT NOT NULL,
    content TEXT NOT NULL
)
"""


class Refusals:
    """The table."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def record(self, *, delivery: str, received_at: datetime, subject: str, reason: str, content: bytes) -> None:
        """Keep the refusal; the same delivery (a redelivered message) once. Durable when this returns."""
        text = content[: CONTENT_CHARS * 4].decode("utf-8", "replace")[:CONTENT_CHARS]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute(
            "INSERT OR IGNORE INTO refusals (delivery, received_at, subject, reason, content) VALUES (?, ?, ?, ?, ?)",
            (delivery, received_at.isoformat(), subject, reason, text),
        )
        self._connection.execute("DELETE FROM refusals WHERE number <= (SELECT max(number) FROM refusals) - ?", (KEPT,))
        self._connection.execute("COMMIT")

    def newest(self, limit: int) -> list[Refusal]:
        """Newest first."""
        rows = self._connection.execute(
            "SELECT received_at, subject, reason, content FROM refusals ORDER BY number DESC LIMIT ?", (limit,)
        )
        return [
            Refusal(received_at=datetime.fromisoformat(row[0]), subject=row[1], reason=row[2], content=row[3])
            for row in rows
        ]


@contextmanager
def opened(path: Path) -> Iterator[Refusals]:
    """The table in the file, closed in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(_TABLE)
        yield Refusals(connection)
    finally:
        connection.close()
