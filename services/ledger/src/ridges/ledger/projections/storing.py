"""Sheets to rows and back."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime

import msgspec

from ridges.ledger.projections import runs
from ridges.ledger.projections.costs import AMOUNTS, Call, Calls, Settlement
from ridges.ledger.projections.fold import Fold
from ridges.ledger.projections.fold import Sheet as Sheet  # noqa: PLC0414 - what load gives

CELL_KEY = ("stream", "attempt", "provider", "served_model", "model", "day", "price_list", "outcome", "estimated")
SEPARATOR = b"\n"
"""Between call ids; one inside an id is escaped."""

_ADD_CELL = (
    f"INSERT INTO costs ({', '.join((*CELL_KEY, *AMOUNTS))}, run_id, usages) "  # noqa: S608 - our own column names
    f"VALUES ({', '.join('?' * (len(CELL_KEY) + len(AMOUNTS) + 2))}) ON CONFLICT ({', '.join(CELL_KEY)}) DO UPDATE SET "
    f"{', '.join(f'{name} = {name} + excluded.{name}' for name in AMOUNTS)}, "
    "usages = CAST(usages || excluded.usages AS BLOB)"
)
_CLOSE = (
    "INSERT INTO closed_calls VALUES (?, ?) "
    "ON CONFLICT (stream) DO UPDATE SET call_ids = CAST(call_ids || excluded.call_ids AS BLOB)"
)
_settlement = msgspec.json.Decoder(Settlement)


def flush(connection: sqlite3.Connection, fold: Fold, position: int, event_id: str | None) -> None:
    """Write everything that changed, and the checkpoint. The transaction is the caller's."""
    dirty = fold.dirty
    connection.executemany(
        "INSERT INTO streams VALUES (?, ?)",
        ((sheet.number, sheet.run_id) for sheet in dirty.values() if not sheet.known),
    )
    records = [sheet for sheet in dirty.values() if sheet.record is not None]
    runs.store(
        connection,
        (sheet.record for sheet in records if sheet.record is not None and (sheet.changed or not sheet.stored)),
    )
    runs.store_sums(
        connection,
        (sheet.record for sheet in records if sheet.record is not None and sheet.stored and not sheet.changed),
    )
    connection.executemany("DELETE FROM calls WHERE stream = ? AND call_id = ?", _gone_calls(fold))
    connection.executemany("REPLACE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _open_calls(fold))
    connection.executemany(_CLOSE, _closed_calls(fold))
    connection.executemany(_ADD_CELL, _cells(fold))
    connection.executemany(
        "REPLACE INTO problems VALUES (?, ?, ?)", ((name, *held) for name, held in fold.problems.items())
    )
    connection.executemany(
        "INSERT OR IGNORE INTO price_lists VALUES (?, ?, ?)", ((name, *held) for name, held in fold.price_lists.items())
    )
    connection.execute("UPDATE checkpoint SET position = ?, event_id = ?", (position, event_id))
    for sheet in dirty.values():
        sheet.known, sheet.stored, sheet.changed = True, sheet.record is not None, False
        calls = sheet.calls
        calls.touched.clear()
        calls.newly_closed.clear()
        calls.cells.clear()


def keep_newest(fold: Fold, kept: int) -> None:
    """After a flush: keep the runs that changed last, forget others beyond the number."""
    sheets = fold.sheets
    for run_id, sheet in fold.dirty.items():
        sheets.pop(run_id, None)
        sheets[run_id] = sheet
    fold.dirty.clear()
    fold.problems.clear()
    fold.price_lists.clear()
    if len(sheets) > kept:
        for run_id in list(sheets)[: len(sheets) - kept]:
            del sheets[run_id]


def load(connection: sqlite3.Connection, run_id: str, position: int) -> Sheet:
    """What the tables have of the run; an empty sheet when that is nothing, the position is its first event's then."""
    row = connection.execute("SELECT number FROM streams WHERE run_id = ?", (run_id,)).fetchone()
    if row is None:
        return Sheet(run_id, position)
    number: int = row[0]
    record = runs.load(connection, run_id)
    rows = connection.execute(
        "SELECT call_id, status, attempt, model, reserved_nano_usd, reserved_at, settled FROM calls WHERE stream = ?",
        (number,),
    )
    open_calls = {row[0]: _call(row[1:]) for row in rows}
    closed = connection.execute("SELECT call_ids FROM closed_calls WHERE stream = ?", (number,)).fetchone()
    calls = Calls(open_calls, set() if closed is None else _call_ids(closed[0]))
    return Sheet(run_id, number, record, calls, known=True)


def _call(row: tuple[object, ...]) -> Call:
    status, attempt, model, reserved, reserved_at, settled = row
    return Call(
        status=status,  # type: ignore[arg-type]  # SQLite types by column
        attempt=attempt,  # type: ignore[arg-type]
        model=model,  # type: ignore[arg-type]
        reserved_nano_usd=reserved,  # type: ignore[arg-type]
        reserved_at=None if reserved_at is None else datetime.fromisoformat(str(reserved_at)),
        settled=None if settled is None else _settlement.decode(settled),  # type: ignore[arg-type]
    )


def _gone_calls(fold: Fold) -> Iterator[tuple[int, str]]:
    for sheet in fold.dirty.values():
        calls = sheet.calls
        for call_id in calls.touched:
            if call_id not in calls.open:
                yield sheet.number, call_id


def _open_calls(fold: Fold) -> Iterator[tuple[object, ...]]:
    for run_id, sheet in fold.dirty.items():
        calls = sheet.calls
        for call_id in calls.touched:
            call = calls.open.get(call_id)
            if call is not None:
                yield (
                    sheet.number,
                    run_id,
                    call_id,
                    call.status,
                    call.attempt,
                    call.model,
                    call.reserved_nano_usd,
                    None if call.reserved_at is None else runs.time_text(call.reserved_at),
                    None if call.settled is None else msgspec.json.encode(call.settled),
                )


def _closed_calls(fold: Fold) -> Iterator[tuple[int, bytes]]:
    for sheet in fold.dirty.values():
        newly = sheet.calls.newly_closed
        if newly:
            yield sheet.number, _call_ids_bytes(newly)


def _cells(fold: Fold) -> Iterator[tuple[object, ...]]:
    for run_id, sheet in fold.dirty.items():
        for key, cell in sheet.calls.cells.items():
            yield (sheet.number, *key, *cell.sums, run_id, cell.usages.tobytes())


def _call_ids_bytes(call_ids: list[str]) -> bytes:
    joined = "\n".join(call_ids)
    if "\\" in joined or joined.count("\n") != len(call_ids) - 1:
        joined = "\n".join(call_id.replace("\\", "\\\\").replace("\n", "\\n") for call_id in call_ids)
    return joined.encode("utf-8", "surrogatepass") + SEPARATOR


def _call_ids(content: bytes) -> set[str]:
    if b"\\" not in content:
        return set(content.decode("utf-8", "surrogatepass").split("\n")[:-1])
    return {
        line.replace(b"\\\\", b"\0").replace(b"\\n", SEPARATOR).replace(b"\0", b"\\").decode("utf-8", "surrogatepass")
        for line in content.split(SEPARATOR)[:-1]
    }
