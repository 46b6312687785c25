"""``/api/...``: the gateway API that existing Ridges agents rely on, and the paths of the older dialect."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse

from ridges.contracts.money import usd
from ridges.gateway import contract_dialect as dialect
from ridges.gateway.calls import known_trace
from ridges.gateway.connection import AnyRequest, idempotency_key, json_response, unless_gone
from ridges.gateway.errors import BodyInvalid, Kind, OtherRun, plain_number
from ridges.gateway.identity import Identity, same_run
from ridges.gateway.keyed_calls import KeyedCalls
from ridges.gateway.pipeline import Pipeline
from ridges.gateway.roster import Offer


def contract_routes(pipeline: Pipeline, calls: KeyedCalls, identity: Identity) -> list[HTTPRouteHandler]:
    """Routes of the Ridges contract."""

    async def refuse_other_run(run_id: str, named: UUID, model: str | None) -> None:
        try:
            same_run(run_id, named)
        except OtherRun as refusal:
            await pipeline.refuse(run_id, refusal, model)
            raise

    @post(["/api/inference", "/agents/inference"], status_code=200)
    async def inference(request: AnyRequest) -> ASGIResponse:
        run_id = identity.run_of(request)
        received = await request.body()
        body = dialect.read_body(received, dialect.InferenceRequest)
        named = body.named_run
        dialect.check_tool_rules(body)
        await refuse_other_run(run_id, named, body.model)
        call = dialect.chat_call(
            body, received, idempotency_key(request), known_trace(request.headers.get("traceparent"))
        )
        _, answer = await unless_gone(request, calls.complete(run_id, call, dialect.inference_answer))
        return json_response(msgspec.json.encode(answer.content if body.wants_bare_content else answer))

    @post(["/api/embedding", "/agents/embedding"], status_code=200)
    async def embedding(request: AnyRequest) -> ASGIResponse:
        run_id = identity.run_of(request)
        received = await request.body()
        body = dialect.read_body(received, dialect.EmbeddingRequest)
        await refuse_other_run(run_id, body.named_run, body.model)
        call = dialect.embedding_call(
            body, received, idempotency_key(request), known_trace(request.headers.get("traceparent"))
        )
        _, answer = await unless_gone(request, calls.complete(run_id, call, dialect.embedding_answer))
        return json_response(msgspec.json.encode(answer))

    @get("/api/usage")
    async def usage(request: AnyRequest) -> ASGIResponse:
        run_id = identity.run_of(request)
        await refuse_other_run(run_id, _run_in_query(request), None)
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

    return [inference, embedding, usage, inference_models, embedding_models]


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


def _run_in_query(request: AnyRequest) -> UUID:
    text = request.query_params.get("evaluation_run_id")
    if text is None:
        raise BodyInvalid(("query", "evaluation_run_id"), "Field required")
    try:
        return UUID(text)
    except ValueError:
        raise BodyInvalid(("query", "evaluation_run_id"), "Input should be a valid UUID") from None
