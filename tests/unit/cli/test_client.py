"""What the command line says when the ledger does not answer as it should."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ridges.cli.client import LedgerClient
from ridges.cli.errors import CliError, Exit, UsageError


@contextmanager
def answering(status, body):
    """The address of a server that always says the same."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def failure(status, body, patience_s=0.0):
    with answering(status, body) as url, pytest.raises(CliError) as failed:
        LedgerClient(url, patience_s=patience_s).run("0190a1b2")
    return failed.value


def test_a_refusal_is_told_in_the_ledgers_words():
    refused = failure(404, b'{"title": "No such run", "status": 404, "detail": "there is no run 0190a1b2"}')
    assert (str(refused), refused.exit_code) == ("there is no run 0190a1b2", Exit.USAGE)


@pytest.mark.parametrize("body", [b"<html>nginx</html>", b"", b"[]", b'{"detail"'])
def test_an_error_that_is_no_problem_document_is_told_as_it_came(body):
    failed = failure(500, body)
    assert failed.exit_code is Exit.OUR_FAULT
    assert "the ledger failed (500)" in str(failed)


def test_an_answer_of_another_release_is_no_traceback():
    failed = failure(200, b'{"run": 1}')
    assert failed.exit_code is Exit.OUR_FAULT
    assert "same release" in str(failed)


def test_a_ledger_that_is_not_ready_gets_some_time():
    failed = failure(503, b'{"detail": "still reading the log"}', patience_s=0.3)
    assert "still reading the log" in str(failed)


def test_nobody_there_is_our_fault_and_says_how_to_start_one():
    with pytest.raises(
        CliError, match=r"no ledger answers at http://127.0.0.1:9 .*`ridges up`.*RIDGES_LEDGER_URL"
    ) as away:
        LedgerClient("http://127.0.0.1:9", patience_s=0.3).runs()
    assert away.value.exit_code is Exit.OUR_FAULT


@pytest.mark.parametrize("url", ["", "127.0.0.1:8100", "ftp://somewhere"])
def test_an_address_that_is_none_is_refused_at_once(url):
    with pytest.raises(UsageError, match="RIDGES_LEDGER_URL"):
        LedgerClient(url)


@pytest.mark.parametrize("run_id", ["", "  "])
def test_an_empty_id_never_becomes_the_list_of_all_runs(run_id):
    with pytest.raises(UsageError, match="empty"):
        LedgerClient("http://127.0.0.1:9").run(run_id)
