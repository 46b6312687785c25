"""The two pages, from views to HTML. Pure."""

from datetime import datetime

from ridges.contracts.lifecycle import ENDED
from ridges.contracts.views import CostReport, RunDetail, RunList, RunRow
from ridges.ledger.web.markup import Child, Markup, document, join, tag

SHORT_ID = 8
TAIL_CHARS = 20_000
REFRESH_S = 3
MAX_PATCH_CHARS = 200_000


def runs_page(runs: RunList, costs: CostReport) -> bytes:
    """The newest runs and what everything cost so far."""
    head = ("run", "problem", "agent", "state", "tests", "calls", "tokens", "cost (USD)", "requested")
    numbers = {"tests", "calls", "tokens", "cost (USD)"}
    more = None if runs.next_cursor is None else tag("a", "older runs", href=f"/?cursor={runs.next_cursor}")
    live = any(row.state not in ENDED for row in runs.runs)
    return document(
        "Ridges: runs",
        tag("h1", "Runs"),
        tag(
            "p",
            f"{costs.total.requests:,} model calls, {costs.total.usage.total:,} tokens, {costs.total.cost_usd} USD.",
        ),
        tag(
            "div",
            tag(
                "table",
                tag("tr", *(tag("th", name, class_="number" if name in numbers else None) for name in head)),
                *map(_run_line, runs.runs),
            ),
            class_="list",
        )
        if runs.runs
        else tag("p", "No run yet. Start one with `ridges run -a AGENT.py -p PROBLEM`.", class_="quiet"),
        tag("p", more),
        refresh_s=REFRESH_S if live else None,
    )


def run_page(run: RunDetail, log: str | None, evaluation_log: str | None) -> bytes:
    """One run: how it stands, its tests, patch and logs."""
    return document(
        f"Ridges: run {run.run_id[:SHORT_ID]}",
        tag("p", tag("a", "all runs", href="/")),
        tag("h1", f"{run.problem}: ", _outcome(run)),
        _facts(run),
        _tests(run),
        _section("Patch" + (" (partial)" if run.partial else ""), run.patch and _diff(run.patch)),
        _section("Agent log", _tail(log)),
        _section("Test log", _tail(evaluation_log)),
        refresh_s=None if run.state in ENDED else REFRESH_S,
    )


def problem_page(title: str, detail: str) -> bytes:
    """What went wrong."""
    return document(f"Ridges: {title}", tag("h1", title), tag("p", detail), tag("p", tag("a", "all runs", href="/")))


def _run_line(run: RunRow) -> Markup:
    tests = f"{run.tests_passed}/{run.tests_total}" if run.tests_total else ""
    return tag(
        "tr",
        tag("td", tag("a", tag("code", run.run_id[:SHORT_ID]), href=f"/runs/{run.run_id}")),
        tag("td", run.problem),
        tag("td", run.agent_name, title=run.agent),
        tag("td", _outcome(run)),
        tag("td", tests, class_="number"),
        tag("td", f"{run.requests:,}", class_="number"),
        tag("td", f"{run.usage.total:,}", class_="number"),
        tag("td", run.cost_usd, class_="number"),
        tag("td", _time(run.requested_at)),
    )


def _outcome(run: RunRow) -> Markup:
    if run.verdict is not None:
        return join(tag("span", run.verdict, class_=run.verdict), f" ({_words(run.cause)})" if run.cause else None)
    if run.state in ENDED:
        return tag("span", _words(run.cause or run.state), class_="void")
    return tag("span", _words(run.state))


def _facts(run: RunDetail) -> Markup:
    usage = run.usage
    tokens = (
        ("input", usage.input),
        ("cached input", usage.cached_input),
        ("output", usage.output),
        ("reasoning", usage.reasoning),
    )
    facts: list[tuple[str, Child]] = [
        ("run", tag("code", run.run_id)),
        ("agent", join(run.agent_name, " ", tag("code", run.agent))),
        ("state", _words(run.state)),
        ("cause", f"{_words(run.cause)} (fault: {run.fault})" if run.cause else None),
        ("detail", run.detail),
        ("model", run.model),
        ("batch", run.batch_id),
        ("sandbox", f"{run.sandbox}, attempt {run.attempt}" if run.sandbox else None),
        ("model calls", f"{run.requests:,} answered, {run.requests_failed:,} failed, {run.requests_refused:,} refused"),
        ("tokens", ", ".join(f"{count:,} {kind}" for kind, count in tokens)),
        ("cost", f"{run.cost_usd} USD"),
        ("requested", _time(run.requested_at)),
        ("started", _time(run.started_at)),
        ("finished", _time(run.finished_at)),
        ("put back", ", ".join(run.flagged) or None),
        ("mended", ", ".join(run.mended) or None),
    ]
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in facts if value not in (None, "")))


def _tests(run: RunDetail) -> Markup | None:
    if not run.tests:
        return None
    lines = (
        tag(
            "tr",
            tag("td", test.status, class_=test.status),
            tag("td", tag("code", test.name), tag("pre", test.message) if test.message else None),
            tag("td", test.category.replace("_", " ")),
            tag("td", "" if test.duration_s is None else f"{test.duration_s:.3f} s", class_="number"),
        )
        for test in run.tests
    )
    return join(tag("h2", f"Tests: {run.tests_passed} of {run.tests_total} passed"), tag("table", *lines))


def _section(title: str, content: Child) -> Markup | None:
    return join(tag("h2", title), tag("pre", content)) if content else None


def _diff(patch: str) -> Markup:
    shown = patch[:MAX_PATCH_CHARS]
    lines = [
        tag("span", line, class_={"+": "add", "-": "remove"}.get(line[:1])) for line in shown.splitlines(keepends=True)
    ]
    cut = None if len(shown) == len(patch) else f"\n… {len(patch) - len(shown):,} more characters"
    return join(*lines, cut)


def _tail(text: str | None) -> str | None:
    if text is None or len(text) <= TAIL_CHARS:
        return text
    return f"… {len(text) - TAIL_CHARS:,} characters before\n{text[-TAIL_CHARS:]}"


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S} UTC"
