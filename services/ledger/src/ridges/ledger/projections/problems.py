"""The ``problems`` table: the newest edition of each published problem."""

import sqlite3

from ridges.contracts import codec
from ridges.contracts.events import ProblemPublished


def publish(connection: sqlite3.Connection, event: ProblemPublished, position: int) -> None:
    """Store the edition."""
    connection.execute("REPLACE INTO problems VALUES (?, ?, ?)", (event.problem_id, position, codec.encode(event)))
