"""``/v1/...``: the OpenAI surface. Bodies pass on untouched but for model, output limit and stream options."""

from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response.base import ASGIResponse
from msgspec import Raw

from ridges.gateway.calls import LIMIT_FIELDS, UNREADABLE, Fields, MalformedReply, ModelCall, known_trace
from ridges.gateway.connection import EventStream, Handler, Request, json_response
from ridges.gateway.errors import BodyInvalid, Kind, ModelNotSupported
from ridges.gateway.identity import Identity
from ridges.gateway.keyed_calls import KeyedCalls
from ridges.gateway.pipeline import Pipeline
from ridges.gateway.prompts import check_input, media_in
from ridges.gateway.unpriced import unpriced_fields, unpriced_tools

MOST_ANSWERS = 128


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Choice(msgspec.Struct):
    message: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Embeddings(msgspec.Struct):
    data: list[Raw]


def openai_calls(calls: KeyedCalls, identity: Identity) -> dict[str, Handler]:
    """The model calls of the OpenAI surface. The run is the token's; the body's own identity fields mean nothing."""

    async def chat(request: Request) -> None:
        run_id = identity.run_of(request.header(b"authorization"))
        received = await request.body()
        call = chat_call(received, request.idempotency_key(), known_trace(request.header(b"traceparent")))
        if not call.streamed:
            body, _ = await request.unless_gone(calls.complete(run_id, call, check_completion))
            request.answer(body)
            return
        out = EventStream(request)
        await request.unless_gone(calls.stream(run_id, call, out))
        await out.end()

    async def embeddings(request: Request) -> None:
        run_id = identity.run_of(request.header(b"authorization"))
        received = await request.body()
        fields = _fields(received)
        _need(fields, "input")
        check_input(fields["input"])
        call = ModelCall(
            kind="embedding",
            model=_model(fields),
            fields=fields,
            received=received,
            unpriced=unpriced_fields(fields),
            idempotency_key=request.idempotency_key(),
            traceparent=known_trace(request.header(b"traceparent")),
        )
        body, _ = await request.unless_gone(calls.complete(run_id, call, check_embeddings))
        request.answer(body)

    return {"/v1/chat/completions": chat, "/v1/embeddings": embeddings}


def model_routes(pipeline: Pipeline) -> list[HTTPRouteHandler]:
    """What models there are."""

    @get("/v1/models")
    async def models() -> ASGIResponse:
        return json_response(msgspec.json.encode({"object": "list", "data": list(_models(pipeline).values())}))

    @get("/v1/models/{name:path}")
    async def model(name: FromPath[str]) -> ASGIResponse:
        found = _models(pipeline).get(name.removeprefix("/"))
        if found is None:
            raise ModelNotSupported(name.removeprefix("/"), "chat")
        return json_response(msgspec.json.encode(found))

    return [models, model]


def chat_call(received: bytes, key: str | None = None, trace: str | None = None) -> ModelCall:
    """What a chat body asks for. Of two output limits the larger holds, so that no answer is shorter than asked for.

    Raises:
        BodyInvalid: no JSON object, no model, no messages, or a limit that is no positive integer.

    """
    fields = _fields(received)
    _need(fields, "messages")
    streamed = _value(fields, "stream", bool | None) or False
    options = _value(fields, "stream_options", _StreamOptions | None) if streamed else None
    limits = [limit for name in LIMIT_FIELDS if (limit := _limit(fields, name)) is not None]
    answers = _value(fields, "n", int | None)
    answers = 1 if answers is None else answers
    if not 1 <= answers <= MOST_ANSWERS:
        raise BodyInvalid(("body", "n"), f"must be between 1 and {MOST_ANSWERS}")
    model, media = _model(fields), media_in(fields["messages"])
    return ModelCall(
        kind="chat",
        model=model,
        fields=fields,
        received=received,
        streamed=streamed,
        keep_usage=bool(options and options.include_usage),
        answers=answers,
        output_tokens=max(limits, default=None),
        media=media,
        unpriced=unpriced_fields(fields) | unpriced_tools(fields.get("tools")) | media.unpriced,
        idempotency_key=key,
        traceparent=trace,
    )


def check_completion(body: bytes) -> None:
    """Raises MalformedReply when the body is no chat completion."""
    try:
        choices = msgspec.json.decode(body, type=_Completion).choices
    except UNREADABLE as error:
        raise MalformedReply(f"no chat completion: {error}") from error
    if not choices:
        raise MalformedReply("no chat completion: it has no choices")
    for choice in choices:
        if bytes(memoryview(choice.error)[:1]) == b"{":  # OpenRouter: the model's own provider broke off
            raise MalformedReply(f"an error instead of an answer: {bytes(choice.error)[:500].decode(errors='replace')}")
        if bytes(memoryview(choice.message)[:1]) != b"{":
            raise MalformedReply("no chat completion: a choice has no message")


def check_embeddings(body: bytes) -> None:
    """Raises MalformedReply when the body is no list of embeddings."""
    try:
        msgspec.json.decode(body, type=_Embeddings)
    except UNREADABLE as error:
        raise MalformedReply(f"no embeddings: {error}") from error


def _fields(received: bytes) -> Fields:
    try:
        if not received.isascii():
            str(received, "utf-8")  # fields that pass on untouched are not decoded, so that nobody else would notice
        return msgspec.json.decode(received, type=Fields)
    except UNREADABLE as error:
        raise BodyInvalid(("body",), f"not a JSON object: {error}") from error


def _value(fields: Fields, name: str, kind: Any) -> Any:
    if name not in fields:
        return None
    try:
        return msgspec.json.decode(fields[name], type=kind)
    except UNREADABLE as error:
        raise BodyInvalid(("body", name), str(error)) from error


def _need(fields: Fields, name: str) -> None:
    if name not in fields:
        raise BodyInvalid(("body", name), "Field required")


def _model(fields: Fields) -> str:
    _need(fields, "model")
    model = _value(fields, "model", str)
    assert isinstance(model, str)
    return model


def _limit(fields: Fields, name: str) -> int | None:
    limit: int | None = _value(fields, name, int | None)
    if limit is not None and limit < 1:
        raise BodyInvalid(("body", name), "must be at least 1")
    return limit


def _models(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    kinds: tuple[Kind, ...] = ("chat", "embedding")
    names = dict.fromkeys(offer.model.name for kind in kinds for offer in pipeline.listed(kind))
    return {name: {"id": name, "object": "model", "created": 0, "owned_by": "ridges"} for name in names}
