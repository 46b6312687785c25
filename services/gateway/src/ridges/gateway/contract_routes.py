"""``/api/...``: the gateway API that existing Ridges agents rely on, and the paths of the older dialect."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Request as LitestarRequest
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse

from ridges.contracts.money import usd
from ridges.gateway import contract_dialect as dialect
from ridges.gateway.calls import known_trace
from ridges.gateway.connection import Handler, Request, json_response
from ridges.gateway.errors import BodyInvalid, Kind, OtherRun, plain_number
from ridges.gateway.identity import Identity, same_run
from ridges.gateway.keyed_calls import KeyedCalls
from ridges.gateway.pipeline import Pipeline
from ridges.gateway.roster import Offer


def contract_calls(pipeline: Pipeline, calls: KeyedCalls, identity: Identity) -> dict[str, Handler]:
    """The model calls of the Ridges contract."""

    async def inference(request: Request) -> None:
        run_id = identity.run_of(request.header(b"authorization"))
        received = await request.body()
        body = dialect.read_body(received, dialect.InferenceRequest)
        named = body.named_run
        dialect.check_tool_rules(body)
        await _refuse_other_run(pipeline, run_id, named, body.model)
        key, trace = request.idempotency_key(), known_trace(request.header(b"traceparent"))
        call = dialect.chat_call(body, received, key, trace)
        _, answer = await request.unless_gone(calls.complete(run_id, call, dialect.inference_answer))
        request.answer(msgspec.json.encode(answer.content if body.wants_bare_content else answer))

    async def embedding(request: Request) -> None:
        run_id = identity.run_of(request.header(b"authorization"))
        received = await request.body()
        body = dialect.read_body(received, dialect.EmbeddingRequest)
        await _refuse_other_run(pipeline, run_id, body.named_run, body.model)
        key, trace = request.idempotency_key(), known_trace(request.header(b"traceparent"))
        call = dialect.embedding_call(body, received, key, trace)
        _, answer = await request.unless_gone(calls.complete(run_id, call, dialect.embedding_answer))
        request.answer(msgspec.json.encode(answer))

    return {
        "/api/inference": inference,
        "/agents/inference": inference,
        "/api/embedding": embedding,
        "/agents/embedding": embedding,
    }


def contract_routes(pipeline: Pipeline, identity: Identity) -> list[HTTPRouteHandler]:
    """Routes of the Ridges contract beside the model calls."""

    @get("/api/usage")
    async def usage(request: LitestarRequest[Any, Any, Any]) -> ASGIResponse:
        run_id = identity.run_of(request.headers.get("authorization"))
        await _refuse_other_run(pipeline, run_id, _run_in_query(request), None)
        used, most = await pipeline.spending_of(run_id)
        return json_response(
            msgspec.json.encode(
                {
                    "used_cost_usd": plain_number(used),
                    "remaining_cost_usd": plain_number(max(0, most - used)),
                    "max_cost_usd": plain_number(most),
                }
            )
        )

    @get("/api/inference-models")
    async def inference_models() -> ASGIResponse:
        return json_response(msgspec.json.encode([_listed(offer, "chat") for offer in pipeline.listed("chat")]))

    @get("/api/embedding-models")
    async def embedding_models() -> ASGIResponse:
        return json_response(
            msgspec.json.encode([_listed(offer, "embedding") for offer in pipeline.listed("embedding")])
        )

    return [usage, inference_models, embedding_models]


async def _refuse_other_run(pipeline: Pipeline, run_id: str, named: UUID, model: str | None) -> None:
    try:
        same_run(run_id, named)
    except OtherRun as refusal:
        await pipeline.refuse(run_id, refusal, model)
        raise


def _listed(offer: Offer, kind: Kind) -> dict[str, Any]:
    model = offer.model
    entry = {"name": model.name, "external_name": model.served, "max_input_tokens": model.context}
    input_price = float(usd(model.price.input))
    if kind == "chat":
        return entry | {
            "cost_usd_per_million_input_tokens": input_price,
            "cost_usd_per_million_output_tokens": float(usd(model.price.output)),
        }
    by_time = bool(model.price.per_second)
    return entry | {
        "pricing_mode": "per_second" if by_time else "per_token",
        "cost_usd_per_million_input_tokens": None if by_time else input_price,
        "cost_usd_per_second": float(usd(model.price.per_second)) if by_time else None,
    }


def _run_in_query(request: LitestarRequest[Any, Any, Any]) -> UUID:
    text = request.query_params.get("evaluation_run_id")
    if text is None:
        raise BodyInvalid(("query", "evaluation_run_id"), "Field required")
    try:
        return UUID(text)
    except ValueError:
        raise BodyInvalid(("query", "evaluation_run_id"), "Input should be a valid UUID") from None
