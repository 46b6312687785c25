"""The figures as one Markdown table and as JSON."""

from typing import Any

import msgspec
from measures import Figures


class Row(msgspec.Struct, frozen=True):
    """One line of the table."""

    title: str
    figure: str
    form: str = "{:.2f}"
    ratio: bool = False
    """Show it also as a multiple of nginx's in the same run."""
    target: str = ""


ROWS = (
    Row(
        "CPU s per 1,000 calls, 1 kB in and out, 64 callers",
        "busy_cpu_s_per_1000",
        "{:.3f}",
        True,
        "≤ 20x (stretch 9x)",
    ),
    Row("… of nats-server, beside it", "busy_log_cpu_s_per_1000", "{:.3f}", True),
    Row("calls/s, 64 callers, each a run of its own", "busy_per_s", "{:.0f}", True, "≥ 0.1x (stretch 0.2x)"),
    Row("… p50 ms", "busy_p50_ms"),
    Row("… p99 ms", "busy_p99_ms"),
    Row("calls/s, 64 callers of one run", "one_run_per_s", "{:.0f}"),
    Row("added p50 ms, one caller", "single_added_p50_ms", "{:.2f}", False, "≤ 1.5 (stretch 0.8)"),
    Row("added p99 ms, one caller", "single_added_p99_ms"),
    Row("CPU s per 1,000 calls, one caller", "single_cpu_s_per_1000", "{:.3f}", True),
    Row(
        "CPU s per 1,000 streams of 50 chunks, 5 ms apart",
        "stream_paced_cpu_s_per_1000",
        "{:.2f}",
        True,
        "≤ 1.8 (stretch 1.0)",
    ),
    Row("… as fast as they go", "stream_burst_cpu_s_per_1000", "{:.2f}", True),
    Row("added time to first token, ms", "first_token_added_ms", "{:.2f}", False, "≤ nginx + 5"),
    Row("CPU s per 1,000 calls, 256 kB in", "large_cpu_s_per_1000", "{:.3f}", True, "≤ 6x (stretch 3x)"),
    Row("calls/s, 256 kB in, 8 callers", "large_per_s", "{:.0f}", True),
    Row("500 callers waiting 2 s: p50 ms", "waiting_p50_ms", "{:.0f}"),
    Row("500 callers waiting 2 s: p99 ms", "waiting_p99_ms", "{:.0f}", False, "≤ 2400"),
    Row("idle memory, MB RSS", "idle_rss_mb", "{:.0f}", False, "≤ 90"),
    Row("idle memory, MB PSS", "idle_pss_mb", "{:.0f}"),
    Row("… of nats-server, MB RSS", "idle_log_rss_mb", "{:.0f}"),
    Row("first answer after start, s", "first_answer_s", "{:.2f}", False, "≤ 2"),
    Row("memory growth, MB", "growth_mb", "{:.1f}", False, "≤ 5"),
    Row("… in the second half", "growth_second_half_mb", "{:.1f}"),
    Row("… over calls", "growth_calls", "{:.0f}"),
    Row("… and abandoned streams", "growth_streams", "{:.0f}"),
    Row("most of the machine that others used meanwhile, %", "others_percent", "{:.0f}"),
)
"""Targets are those of our own gateway with everything on."""


def with_noise(figures: Figures) -> Figures:
    shares = [value for name, value in figures.items() if name.endswith("_others_share")]
    return figures | ({"others_percent": 100 * max(shares)} if shares else {})


def markdown(figures: dict[str, Figures], described: dict[str, str], machine: list[str], notes: list[str]) -> str:
    """The table, one column for each contender, then what they are and what went wrong."""
    names = list(figures)
    baseline = figures.get("nginx", {})
    lines = ["| | " + " | ".join(names) + " | target |", "|---|" + "---|" * (len(names) + 1)]
    for row in ROWS:
        cells = [_cell(row, with_noise(figures[name]), baseline if name != "nginx" else {}) for name in names]
        if any(cells):
            lines.append(f"| {row.title} | " + " | ".join(cells) + f" | {row.target} |")
    lines += ["", *(f"- **{name}**: {text}" for name, text in described.items())]
    lines += [f"- {line}" for line in (*machine, *notes)]
    return "\n".join(lines)


def as_json(figures: dict[str, Figures], **more: Any) -> bytes:
    encoded = msgspec.json.encode({**more, "figures": {name: with_noise(found) for name, found in figures.items()}})
    return msgspec.json.format(encoded, indent=2)


def _cell(row: Row, figures: Figures, baseline: Figures) -> str:
    value = figures.get(row.figure)
    if value is None:
        return ""
    text = row.form.format(value)
    base = baseline.get(row.figure if "_log_" not in row.figure else row.figure.replace("_log_", "_"))
    if not row.ratio or not base:
        return text
    ratio = value / base
    return f"{text} ({ratio:.0f}x)" if ratio >= 10 else f"{text} ({ratio:.2g}x)"
