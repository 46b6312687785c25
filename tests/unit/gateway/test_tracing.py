"""Spans with the GenAI names, made from calls that have ended; nothing of it is there when it is off."""

import re
import subprocess
import sys

import pytest
from unit.gateway.support import CLOCK, UNREACHABLE, ScriptedProvider, World, chat, completion, provider

from ridges.contracts import events as ev
from ridges.gateway import errors
from ridges.gateway.calls import known_trace
from ridges.gateway.tracing import Tracing, TracingUnavailable

UNSAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


@pytest.fixture
def exporter():
    pytest.importorskip("opentelemetry.sdk.trace", reason="the gateway's extra otel is not installed")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


def spans_of(tracing, exporter):
    tracing.close()
    spans = exporter.get_finished_spans()
    (call,) = [span for span in spans if span.parent is None]
    return call, [span for span in spans if span.parent is not None]


async def test_a_call_is_a_span_with_one_for_each_attempt(exporter):
    tracing = Tracing(CLOCK, exporter)
    bad = (provider("bad", weight=1e9), ScriptedProvider(lambda _: UNREACHABLE))
    good = (provider("good", weight=1e-9), ScriptedProvider(lambda _: completion(prompt=10, output=5)))
    async with World(bad, good, tracing=tracing).running() as world:
        run_id = await world.run()
        await world.pipeline.complete(run_id, chat(), lambda body: body)
    call, (first, second) = spans_of(tracing, exporter)
    assert call.name == "chat m"
    assert call.attributes["gen_ai.operation.name"] == "chat"
    assert call.attributes["gen_ai.request.model"] == "m"
    assert (call.attributes["gen_ai.usage.input_tokens"], call.attributes["gen_ai.usage.output_tokens"]) == (10, 5)
    assert call.attributes["gen_ai.usage.cache_read.input_tokens"] == 0
    assert call.attributes["gen_ai.usage.reasoning.output_tokens"] == 0
    assert call.attributes["gen_ai.provider.name"] == "good"
    assert call.attributes["ridges.run_id"] == run_id
    assert call.attributes["ridges.cost_usd"] == "0.00003"
    assert [span.attributes["gen_ai.provider.name"] for span in (first, second)] == ["bad", "good"]
    assert first.attributes["error.type"] == "connect_error"
    assert second.name == "chat served-m"
    assert call.start_time <= first.start_time <= first.end_time <= call.end_time


async def test_a_call_belongs_to_its_callers_trace(exporter):
    tracing = Tracing(CLOCK, exporter)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with World(tracing=tracing).running() as world:
        run_id = await world.run()
        await world.pipeline.complete(run_id, chat(traceparent=trace), lambda body: body)
        (made,) = await world.events(run_id, ev.InferenceMade)
    tracing.close()
    spans = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans} == {"4bf92f3577b34da6a3ce929d0e0e4736"}
    assert "00f067aa0ba902b7" in {f"{span.parent.span_id:016x}" for span in spans}
    assert made.traceparent == trace


async def test_each_provider_is_told_the_span_of_its_attempt(exporter):
    tracing = Tracing(CLOCK, exporter)
    bad, good = ScriptedProvider(lambda _: UNREACHABLE), ScriptedProvider()
    providers = (provider("bad", weight=1e9), bad), (provider("good", weight=1e-9), good)
    async with World(*providers, tracing=tracing).running() as world:
        run_id = await world.run()
        await world.pipeline.complete(run_id, chat(), lambda body: body)
        await world.pipeline.complete(run_id, chat(traceparent=UNSAMPLED), lambda body: body)
    tracing.close()
    spans = [span for span in exporter.get_finished_spans() if span.parent is not None]
    assert len({span.context.trace_id for span in exporter.get_finished_spans()}) == 1, "the other one is not sampled"
    said = [bad.traceparents[0], good.traceparents[0]]
    assert said == [f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01" for span in spans]
    assert re.fullmatch(r"00-4bf92f3577b34da6a3ce929d0e0e4736-(?!00f067aa0ba902b7)[0-9a-f]{16}-00", bad.traceparents[1])


async def test_without_tracing_the_callers_context_is_passed_on():
    only = ScriptedProvider()
    async with World((provider(), only)).running() as world:
        run_id = await world.run()
        for trace in (None, UNSAMPLED):
            await world.pipeline.complete(run_id, chat(traceparent=trace), lambda body: body)
    assert only.traceparents == [None, UNSAMPLED]


@pytest.mark.parametrize("header", [None, "", "x", f"00-{'0' * 32}-00f067aa0ba902b7-01", "00-4BF9-00f0-01"])
def test_what_is_no_trace_context_is_left_out(header):
    assert known_trace(header) is None


async def test_a_failed_call_is_an_error(exporter):
    tracing = Tracing(CLOCK, exporter)
    async with World((provider(), ScriptedProvider(lambda _: UNREACHABLE)), tracing=tracing).running() as world:
        run_id = await world.run()
        with pytest.raises(errors.ProviderFailed):
            await world.pipeline.complete(run_id, chat(), lambda body: body)
    call, attempts = spans_of(tracing, exporter)
    assert call.attributes["error.type"] == "502"
    assert not call.status.is_ok
    assert len(attempts) == 1


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(TracingUnavailable, match=r"install ridges-gateway\[otel\]"):
        Tracing(CLOCK)


def test_nothing_is_imported_when_it_is_off():
    program = "import sys, ridges.gateway.app; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
