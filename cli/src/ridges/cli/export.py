"""``ridges export``: runs or costs as a file; the file's ending says in which form."""

import csv
import io
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from ridges.cli.client import LedgerClient
from ridges.cli.errors import CliError, UsageError
from ridges.contracts.views import CostReport, RunDetail, RunRow

PAGE = 500
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Record = dict[str, Any]


def export(client: LedgerClient, path: Path, by: str | None) -> int:
    """Write all runs, or costs by a dimension; how many records that were.

    Raises:
        UsageError: an unknown ending, or one that cannot hold what was asked for.
        CliError: a package is missing, or the file cannot be written.

    """
    write = WRITERS.get(path.suffix.lower())
    if path.suffix.lower() == ".xml":
        if by is not None:
            raise UsageError("JUnit files (.xml) hold tests of runs, not costs; leave --by out")
        details = [client.run(row.run_id) for row in all_runs(client)]
        content: bytes | None = junit(details)
        count = len(details)
    elif write is None:
        raise UsageError(f"{path.name}: unknown ending; use one of {', '.join(sorted((*WRITERS, '.xml')))}")
    else:
        records = cost_records(client.costs(by)) if by is not None else [run_record(row) for row in all_runs(client)]
        content, count = write(records), len(records)
    try:
        path.write_bytes(content or b"")
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from error
    return count


def all_runs(client: LedgerClient) -> list[RunRow]:
    """Every run, newest first."""
    found: list[RunRow] = []
    cursor: str | None = None
    while True:
        page = client.runs(limit=PAGE, cursor=cursor)
        found += page.runs
        cursor = page.next_cursor
        if cursor is None:
            return found


def run_record(row: RunRow) -> Record:
    """Flat: one column a field, money as integer nano-USD and as decimal text."""
    return _flat(msgspec.to_builtins(row))


def cost_records(report: CostReport) -> list[Record]:
    """One record a group, without the total."""
    return [{"by": report.by} | _flat(msgspec.to_builtins(row)) for row in report.rows]


def _flat(record: Record) -> Record:
    usage = record.pop("usage")
    return record | {f"{kind}_tokens": count for kind, count in usage.items()}


def json_lines(records: Sequence[Record]) -> bytes:
    """One JSON object a line."""
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


def csv_table(records: Sequence[Record]) -> bytes:
    """With a header; text that a spreadsheet would take for a formula is quoted with an apostrophe."""
    text = io.StringIO()
    table = csv.DictWriter(text, _columns(records), lineterminator="\n")
    table.writeheader()
    table.writerows({name: _cell(value) for name, value in record.items()} for record in records)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def parquet(records: Sequence[Record]) -> bytes:
    """Needs pyarrow, an optional extra."""
    try:
        import pyarrow as pa  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import pyarrow.parquet as pq  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise CliError(
            f"Parquet files need pyarrow, which is not installed here ({sys.executable}); "
            "install it with `pip install 'ridges-cli[parquet]'`, or export to .csv or .jsonl"
        ) from error
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records)), target, compression="zstd")
    return target.getvalue()


def html_table(records: Sequence[Record]) -> bytes:
    """One page with one table, nothing trusted."""
    columns = _columns(records)
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(str(record.get(name, '') or ''))}</td>" for name in columns) + "</tr>\n"
        for record in records
    )
    style = "body{font:14px system-ui,sans-serif}td,th{padding:.2em .6em;text-align:left;border-bottom:1px solid #8884}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Ridges</title><style>{style}</style>'
        f"<table><tr>{head}</tr>\n{rows}</table></html>\n"
    ).encode()


def junit(runs: Iterable[RunDetail]) -> bytes:
    """A suite a run, a case a hidden test; a run without a verdict is one case in error."""
    root = ET.Element("testsuites", name="ridges")
    for run in runs:
        failed = sum(test.status == "fail" for test in run.tests)
        skipped = sum(test.status == "skip" for test in run.tests)
        suite = ET.SubElement(
            root,
            "testsuite",
            name=_xml(f"{run.problem} / {run.agent_name} / {run.run_id}"),
            tests=str(len(run.tests) or 1),
            failures=str(failed),
            skipped=str(skipped),
            errors="0" if run.tests else "1",
            timestamp=run.requested_at.isoformat(),
        )
        for test in run.tests:
            case = ET.SubElement(
                suite, "testcase", classname=_xml(run.problem), name=_xml(test.name), time=f"{test.duration_s or 0:.3f}"
            )
            if test.status == "fail":
                ET.SubElement(case, "failure", message=_xml(test.message or "failed"))
            elif test.status == "skip":
                ET.SubElement(case, "skipped")
        if not run.tests:
            case = ET.SubElement(suite, "testcase", classname=_xml(run.problem), name="verdict")
            ET.SubElement(case, "error", message=_xml(f"{run.cause or run.state}: {run.detail or ''}"))
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _xml(text: str) -> str:
    """Without what XML 1.0 cannot hold."""
    return _NOT_IN_XML.sub("\ufffd", text)


def _columns(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record))


WRITERS: dict[str, Callable[[Sequence[Record]], bytes]] = {
    ".jsonl": json_lines,
    ".csv": csv_table,
    ".parquet": parquet,
    ".html": html_table,
}
