"""The tables. Everything in them can be computed again from the log, so a new version simply starts afresh."""

import sqlite3
from contextlib import closing
from pathlib import Path

VERSION = 1
"""Raise it when a table or the meaning of a column changes: the next start builds everything again from the log."""

TABLES = """
CREATE TABLE checkpoint (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    position INTEGER NOT NULL,
    event_id TEXT
);
INSERT INTO checkpoint VALUES (1, 0, NULL);

CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    requested_position INTEGER NOT NULL UNIQUE,
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
) WITHOUT ROWID;
CREATE INDEX runs_by_state ON runs (state, requested_position);
CREATE INDEX runs_by_problem ON runs (problem, requested_position);
CREATE INDEX runs_by_batch ON runs (batch_id, requested_position);

CREATE TABLE calls (
    run_id TEXT NOT NULL,
    call_id TEXT NOT NULL,
    status TEXT NOT NULL,
    model TEXT NOT NULL,
    reserved_nano_usd INTEGER NOT NULL,
    reserved_at TEXT,
    settled BLOB,
    PRIMARY KEY (run_id, call_id)
) WITHOUT ROWID;
CREATE INDEX calls_open ON calls (run_id) WHERE status = 'reserved';

CREATE TABLE costs (
    run_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    day TEXT NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    PRIMARY KEY (run_id, provider, model, day)
) WITHOUT ROWID;

CREATE TABLE problems (
    problem_id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    event BLOB NOT NULL
) WITHOUT ROWID;
"""


def open_projections(path: Path) -> sqlite3.Connection:
    """The connection that writes; the tables are there and of this version (an older file is dropped)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and _version(path) != VERSION:
        for leftover in (path, *path.parent.glob(path.name + "-*")):
            leftover.unlink(missing_ok=True)
    connection = _connect(path)
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads; it sees whole batches and never waits for the writer."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    # A power cut may lose the newest transactions but never tears one, and the log still has their events.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _version(path: Path) -> int | None:
    """None when the file is no database."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            return version
    except sqlite3.DatabaseError:
        return None
