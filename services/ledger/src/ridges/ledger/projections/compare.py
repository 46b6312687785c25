"""Are two files of tables the same, row by row?"""

import sqlite3
from contextlib import closing
from itertools import zip_longest
from pathlib import Path


class Snapshots:
    """Both files as they are when this is made, whatever is written to them later (in WAL mode)."""

    def __init__(self, live: Path, rebuilt: Path) -> None:
        self._left, self._right = _reader(live), _reader(rebuilt)

    def first_difference(self) -> str | None:
        """Names the first row and column that differ; None when every row is the same. May run in any one thread."""
        tables = [_tables(connection) for connection in (self._left, self._right)]
        if tables[0] != tables[1]:
            return f"the live file has the tables {', '.join(tables[0])}, the rebuilt one {', '.join(tables[1])}"
        for table in tables[0]:
            difference = _difference(self._left, self._right, table)
            if difference is not None:
                return difference
        return None

    def close(self) -> None:
        self._left.close()
        self._right.close()


def first_difference(live: Path, rebuilt: Path) -> str | None:
    """See ``Snapshots``; of files at rest."""
    with closing(Snapshots(live, rebuilt)) as snapshots:
        return snapshots.first_difference()


def _difference(left: sqlite3.Connection, right: sqlite3.Connection, table: str) -> str | None:
    info = left.execute(f"PRAGMA table_info({table})").fetchall()
    columns = [row[1] for row in info]
    key = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
    if "run_id" in columns and "run_id" not in key:
        key.append("run_id")
    select = f"SELECT {', '.join((*key, *columns))} FROM {table} ORDER BY {', '.join(key)}"  # noqa: S608 - our own names
    for live, rebuilt in zip_longest(left.execute(select), right.execute(select)):
        if live == rebuilt:
            continue
        if live is None or rebuilt is None or live[: len(key)] != rebuilt[: len(key)]:
            only, where = ("live", live) if rebuilt is None or (live and live < rebuilt) else ("rebuilt", rebuilt)
            return f"{table} {_named(key, where)}: only in the {only} tables"
        place = next(n for n in range(len(key), len(live)) if live[n] != rebuilt[n])
        column = columns[place - len(key)]
        return f"{table} {_named(key, live)}: {column} is {live[place]!r:.200} live, {rebuilt[place]!r:.200} rebuilt"
    return None


def _named(key: list[str], row: tuple[object, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(key, row, strict=False))


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [row[0] for row in rows]


def _reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first read is what the snapshot is of
    return connection
