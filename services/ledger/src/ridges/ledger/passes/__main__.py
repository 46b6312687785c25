"""``python -m ridges.ledger.passes``: one pass, with the ledger's settings; reports JSON lines on stdout."""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from msgspec import structs

from ridges.chassis import settings
from ridges.chassis.blob_store import BlobsUrlError, open_blob_store
from ridges.chassis.jetstream.bulk import RawEvent, last_position, raw_events
from ridges.chassis.jetstream.place import Place
from ridges.chassis.jetstream.streams import RECORDED_HERE, RECORDED_IN_KURRENTDB
from ridges.chassis.moving.ports import CannotMove
from ridges.chassis.ports import EventRefused, EventStoreUnavailable, NamedBlobStore
from ridges.contracts.views import MigrationResult, PassProgress, PassResult
from ridges.ledger.archive import ArchiveDamaged
from ridges.ledger.errors import INTO_NEW
from ridges.ledger.passes.mending import mend_segments
from ridges.ledger.passes.migrate import migrate
from ridges.ledger.passes.rebuild import rebuild
from ridges.ledger.passes.reporting import Line, PassFailed
from ridges.ledger.passes.restore import restore
from ridges.ledger.passes.sealing import lost_end, rebuild_from_archive, seal_log, sealed_segments
from ridges.ledger.passes.verify import verify
from ridges.ledger.settings import LedgerSettings, MigrateSettings

NICE = 5
"""Live traffic goes first."""


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 well, 1 something is wrong (said on stdout)."""
    asked = _parser().parse_args(arguments)
    if asked.what == "migrate":
        return _migrate(asked)
    try:
        config = settings.load(LedgerSettings)
    except settings.SettingsError as error:
        return _failed(asked.what, str(error))
    with suppress(OSError):
        os.nice(NICE)
    try:
        result = _carry_out(asked, config)
    except EventStoreUnavailable as error:
        return _failed(asked.what, f"{error}. If its files are damaged or were cut off: {INTO_NEW}")
    except (PassFailed, ArchiveDamaged, EventRefused, BlobsUrlError, OSError) as error:
        return _failed(asked.what, str(error))
    _write(Line(result=result))
    return 0 if result.ok else 1


def _carry_out(asked: argparse.Namespace, config: LedgerSettings) -> PassResult:
    place = Place(
        url=config.nats_url,
        name="ledger-pass",
        monitor_url=config.nats_monitor_url,
        user=config.nats_user,
        password=config.nats_password,
        allow_lossy=config.allow_lossy_log,
        log_epoch=config.log_epoch,
        log_of_record=RECORDED_IN_KURRENTDB if config.event_store_url else RECORDED_HERE,
    )
    store = open_blob_store(config.blobs_url)
    if asked.what == "restore":
        if config.nats_admin_user:
            place = structs.replace(place, user=config.nats_admin_user, password=config.nats_admin_password)
        return restore(place, sealed_segments(store), store=store, report=_report, salvage=asked.salvage)
    end = last_position(place)

    def chunks(after: int = 0) -> Iterator[list[RawEvent]]:
        return raw_events(place, after, end)

    match asked.what:
        case "rebuild" if asked.source == "archive":
            sealed = sealed_segments(store)
            tail = chunks(sealed[-1].last if sealed else 0)
            return rebuild_from_archive(sealed, tail, asked.tables, store=store, total=end, report=_report)
        case "rebuild":
            return rebuild(chunks(), asked.tables, total=end, report=_report)
        case "archive":
            return _archive(asked, place, store, end)
    blobs = None if asked.no_blobs else store
    return verify(chunks(), total=end, grace_s=config.settle_grace_s, blobs=blobs, report=_report)


def _archive(asked: argparse.Namespace, place: Place, store: NamedBlobStore, end: int) -> PassResult:
    sealed = sealed_segments(store)
    if sealed and end < sealed[-1].last:
        raise PassFailed(lost_end(end, sealed[-1].last))
    read = partial(raw_events, place)
    found = [] if asked.no_proof else mend_segments(sealed, read, store=store, report=_report)
    first = max(sealed[-1].last - 1, 0) if sealed else 0
    return seal_log(
        read(first, end),
        sealed,
        store=store,
        total=end - first,
        now=datetime.now(UTC),
        report=_report,
        findings=found,
    )


def _migrate(asked: argparse.Namespace) -> int:
    environ = os.environ | ({"RIDGES_MIGRATE_TO": asked.to} if asked.to else {})
    try:
        config = settings.load(MigrateSettings, environ)
        result = asyncio.run(migrate(config, _report, abort=asked.abort))
    except settings.SettingsError as error:
        _write(Line(migration=MigrationResult(ok=False, summary=str(error), events=0, seconds=0)))
        return 2
    except CannotMove as error:
        _write(Line(migration=MigrationResult(ok=False, summary=str(error), events=0, seconds=0)))
        return 1
    except KeyboardInterrupt:
        return 130
    _write(Line(migration=result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ridges.ledger.passes", description=__doc__)
    parser.add_argument("what", choices=["rebuild", "verify", "archive", "restore", "migrate"])
    parser.add_argument("--tables", type=Path, help="the file to make (rebuild)")
    parser.add_argument("--source", choices=["log", "archive"], default="log", help="what to read (rebuild)")
    parser.add_argument("--no-blobs", action="store_true", help="read neither blobs nor archive (verify)")
    parser.add_argument("--no-proof", action="store_true", help="do not read what is sealed already (archive)")
    parser.add_argument(
        "--salvage",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="nats-server's files of the damaged log, moved away: what the archive lacks is read there (restore)",
    )
    parser.add_argument("--to", help="where the log goes; default: RIDGES_MIGRATE_TO (migrate)")
    parser.add_argument("--abort", action="store_true", help="stay with the old log (migrate)")
    return parser


def _report(progress: PassProgress) -> None:
    _write(Line(progress=progress))


def _failed(what: str, reason: str) -> int:
    _write(Line(result=PassResult(what=what, ok=False, summary=reason, events=0, seconds=0)))  # type: ignore[arg-type]
    return 1


def _write(line: Line) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
