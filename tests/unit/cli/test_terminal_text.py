"""Text of agents, problems and models cannot do anything to the user's terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from unit.cli.samples import run_detail

from ridges.cli import render
from ridges.cli.terminal_text import printable, safe
from ridges.cli.unanswered import Unanswered

HARMLESS = ["", "plain", "two\nlines\tand a tab", "größer ≥ 日本語 🙂", "[bold]no markup[/bold]", "C:\\path"]
HOSTILE = {
    "a colour": "\x1b[31mred",
    "clear the screen": "\x1b[2J",
    "set the title": "\x1b]0;title\x07",
    "an 8-bit control sequence": "\x9b31m",
    "a carriage return over the line": "resolved\rXX",
    "backspaces": "abc\b\b\b",
    "a bell": "\a",
    "delete": "\x7f",
    "nul": "\0",
    "text from right to left": "a\u202eb",
    "a lone surrogate": "\ud800",
    "a line separator": "\u2028",
}


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_stays(text):
    assert printable(text) == text


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_terminal_would_obey_is_replaced(case):
    shown = printable(HOSTILE[case])
    assert "\N{REPLACEMENT CHARACTER}" in shown
    assert all(char.isprintable() for char in shown)
    assert len(shown) == len(HOSTILE[case])


@given(st.text())
def test_nothing_but_lines_tabs_and_what_can_be_printed_is_left(text):
    assert all(char in "\n\t" or char.isprintable() for char in printable(text))


def test_table_cells_take_no_markup():
    assert safe("[red]x[/red]").plain == "[red]x[/red]"


def test_a_page_of_a_hostile_run_holds_no_escape(capsys):
    evil = "\x1b[2J\x1b]0;owned\x07[link=x]"
    failed = Unanswered(outcome="failed", reason=evil, status=500, calls=1, detail=evil)
    render.run_page(run_detail(problem=evil, agent_name=evil, detail=evil, patch=evil, sandbox=evil), [failed])
    render.runs_table([run_detail(problem=evil, agent_name=evil)], total=True)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[link=x]" in shown


def test_a_terminal_gets_colours_but_no_escape_of_the_agent():
    console = Console(force_terminal=True, color_system="truecolor", record=True, width=40)
    console.print(safe("\x1b[2J", "red"))
    assert "\x1b[2J" not in console.export_text(styles=True)
