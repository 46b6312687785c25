"""The tables. Everything in them can be computed again from the log, so a new version simply starts afresh."""

import sqlite3
from contextlib import closing
from pathlib import Path

VERSION = 5
"""Raise it when a table or the meaning of a column changes: the next start builds everything again from the log,
while reads go on with what is there."""

# Active runs stand side by side: rows are ordered by the position of their stream's first event, not by random ids.
TABLES = """
CREATE TABLE checkpoint (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    position INTEGER NOT NULL,
    event_id TEXT
);
INSERT INTO checkpoint VALUES (1, 0, NULL);

CREATE TABLE streams (
    number INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE
);

CREATE TABLE runs (
    run_id TEXT NOT NULL UNIQUE,
    requested_position INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    problem TEXT NOT NULL,
    agent TEXT NOT NULL,
    agent_name TEXT NOT NULL,
    batch_id TEXT,
    model TEXT,
    limits BLOB NOT NULL,
    state TEXT NOT NULL,
    verdict TEXT,
    cause TEXT,
    detail TEXT,
    attempt INTEGER NOT NULL,
    evaluation_id TEXT,
    partial INTEGER NOT NULL,
    sandbox TEXT,
    requests INTEGER NOT NULL,
    requests_failed INTEGER NOT NULL,
    requests_refused INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    reserved_nano_usd INTEGER NOT NULL,
    tests_passed INTEGER NOT NULL,
    tests_total INTEGER NOT NULL,
    requested_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    patch_digest TEXT,
    log_digest TEXT,
    evaluation_log_digest TEXT,
    exit BLOB,
    tests BLOB NOT NULL,
    flagged BLOB NOT NULL,
    mended BLOB NOT NULL
);
CREATE INDEX runs_by_state ON runs (state, requested_position);
CREATE INDEX runs_by_problem ON runs (problem, requested_position);
CREATE INDEX runs_by_batch ON runs (batch_id, requested_position);

CREATE TABLE calls (
    stream INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    call_id TEXT NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    model TEXT NOT NULL,
    reserved_nano_usd INTEGER NOT NULL,
    reserved_at TEXT,
    settled BLOB,
    PRIMARY KEY (stream, call_id)
) WITHOUT ROWID;

CREATE TABLE closed_calls (
    stream INTEGER PRIMARY KEY,
    call_ids BLOB NOT NULL
);

CREATE TABLE costs (
    stream INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    provider TEXT NOT NULL,
    served_model TEXT NOT NULL,
    model TEXT NOT NULL,
    day TEXT NOT NULL,
    price_list TEXT NOT NULL,
    outcome TEXT NOT NULL,
    estimated INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    requests_failed INTEGER NOT NULL,
    requests_refused INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    input_nano_usd INTEGER NOT NULL,
    cached_input_nano_usd INTEGER NOT NULL,
    output_nano_usd INTEGER NOT NULL,
    reasoning_nano_usd INTEGER NOT NULL,
    usages BLOB NOT NULL,
    PRIMARY KEY (stream, attempt, provider, served_model, model, day, price_list, outcome, estimated)
) WITHOUT ROWID;

CREATE TABLE price_lists (
    price_list TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    event BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE problems (
    problem_id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    event BLOB NOT NULL
) WITHOUT ROWID;
"""


def open_projections(path: Path) -> sqlite3.Connection:
    """The connection that writes; the tables are there and of this version (another version's file is dropped)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and version_of(path) != VERSION:
        remove(path)
    connection = _connect(path)
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    return connection


def is_outdated(path: Path) -> bool:
    """Whether the file holds tables of another version: good for reading, not to be continued."""
    return path.exists() and version_of(path) not in (None, 0, VERSION)


def open_fresh(path: Path) -> sqlite3.Connection:
    """Empty tables in a file of their own, inside one transaction that is the caller's to commit. No safety before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -32768")
    connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT; BEGIN;")
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads; it sees whole batches and never waits for the writer.

    Tables of another version are shown in the shape of this one: what they lack is empty.
    """
    connection = _connect(path)
    if connection.execute("PRAGMA user_version").fetchone()[0] not in (0, VERSION):
        show_in_this_shape(connection)
    connection.execute("PRAGMA query_only = ON")
    return connection


def show_in_this_shape(connection: sqlite3.Connection) -> None:
    """Temporary views that hide older tables: reads go on while the new tables are built."""
    with closing(sqlite3.connect(":memory:")) as wanted:
        wanted.executescript(TABLES)
        for (table,) in wanted.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            there = {row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")}
            columns = wanted.execute(f"PRAGMA table_info({table})").fetchall()
            shown = ", ".join(row[1] if row[1] in there else f"{_empty(row)} AS {row[1]}" for row in columns)
            source = f"FROM main.{table}" if there else "WHERE 0"
            connection.execute(f"CREATE TEMP VIEW {table} AS SELECT {shown} {source}")


def remove(path: Path) -> None:
    """Delete a database file and what SQLite keeps beside it."""
    for leftover in (path, *path.parent.glob(path.name + "-*")):
        leftover.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    # A power cut may lose the newest transactions but never tears one, and the log still has their events.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def version_of(path: Path) -> int | None:
    """None when the file is no database."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            return version
    except sqlite3.DatabaseError:
        return None


def _empty(column: tuple[object, ...]) -> str:
    """What stands for a column that is not there. Source: rows of ``PRAGMA table_info``."""
    kind, not_null = str(column[2]), bool(column[3])
    if not not_null:
        return "NULL"
    return {"INTEGER": "0", "TEXT": "''", "BLOB": "x''"}[kind]
