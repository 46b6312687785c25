"""The OpenAPI document: ``python -m ridges.gateway.openapi`` prints it, ``/schema/openapi.json`` serves it.

Written out rather than derived: the handlers read bodies as bytes, so that what need not be read passes on untouched.
A test holds it against the routes.
"""

import json
import sys
from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response.base import ASGIResponse

from ridges.gateway.connection import LONGEST_KEY, json_response
from ridges.gateway.contract_dialect import (
    EmbeddingAnswer,
    EmbeddingRequest,
    InferenceAnswer,
    InferenceRequest,
)

Json = dict[str, Any]

ERRORS = {
    "400": "no such run, or the run is not in the state running_agent; or the provider's own 400",
    "401": "no run token, or not ours",
    "403": "the body names another run",
    "404": "the model is not supported",
    "409": "the call under this Idempotency-Key is in flight elsewhere, or its answer was not kept",
    "413": "the body is larger than 16 MiB",
    "422": "the body does not fit, a tool rule is broken, or the Idempotency-Key stands for another body",
    "429": "a limit of the run is reached (x-should-retry: false), or waiting helps (Retry-After)",
    "500": "the gateway failed",
    "502": "the provider is unreachable or sent garbage",
    "503": "the event log is away, every provider rests or is full, or the gateway shuts down (Retry-After)",
    "504": "the provider was too slow",
    "default": "any other status that a provider answered with",
}
_NUMBER: Json = {"type": "number"}
_TEXT: Json = {"type": "string"}
_PRICE: Json = {"type": ["number", "null"]}


def openapi_document() -> Json:
    """OpenAPI 3.1."""
    structs = (InferenceRequest, InferenceAnswer, EmbeddingRequest, EmbeddingAnswer)
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    contract, openai = "Ridges contract", "OpenAI"
    inference = _post(contract, "Ask a model", "InferenceRequest", {"anyOf": [_ref("InferenceAnswer"), _TEXT]})
    embedding = _post(contract, "Embed a text", "EmbeddingRequest", _ref("EmbeddingAnswer"))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ridges gateway",
            "version": "1",
            "description": "One metered model API in front of many providers. Whoever calls is known by the run token.",
        },
        "paths": {
            "/api/inference": {"post": inference},
            "/agents/inference": {"post": inference},
            "/api/embedding": {"post": embedding},
            "/agents/embedding": {"post": embedding},
            "/api/usage": {"get": _usage()},
            "/api/inference-models": {"get": _list(contract, "InferenceModel")},
            "/api/embedding-models": {"get": _list(contract, "EmbeddingModel")},
            "/v1/chat/completions": {"post": _chat(openai)},
            "/v1/embeddings": {"post": _post(openai, "Embed texts", "OpenAIEmbeddingRequest", {"type": "object"})},
            "/v1/models": {"get": _get(openai, "The models", {"type": "object"}, errors=())},
            "/v1/models/{name}": {"get": _model(openai)},
        },
        "components": {
            "schemas": schemas | _written_schemas(),
            "securitySchemes": {"run_token": {"type": "http", "scheme": "bearer"}},
        },
    }


def openapi_text() -> str:
    """The document as indented JSON."""
    return json.dumps(openapi_document(), indent=2, sort_keys=True) + "\n"


def openapi_routes() -> list[HTTPRouteHandler]:
    """The document at ``/schema/openapi.json``."""
    content = openapi_text().encode()

    @get("/schema/openapi.json")
    async def document() -> ASGIResponse:
        return json_response(content)

    return [document]


def _post(tag: str, summary: str, body: str, answer: Json) -> Json:
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key and body of a run is one call, one bill and equal answers.",
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    }
    return {
        "tags": [tag],
        "summary": summary,
        "security": [{"run_token": []}],
        "parameters": [key],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}},
        "responses": {"200": _json("the answer", answer)} | _errors(tuple(ERRORS)),
    }


def _get(tag: str, summary: str, answer: Json, *, errors: tuple[str, ...]) -> Json:
    return {"tags": [tag], "summary": summary, "responses": {"200": _json(summary, answer)} | _errors(errors)}


def _chat(tag: str) -> Json:
    operation = _post(tag, "Chat, buffered or streamed", "ChatRequest", {"type": "object"})
    operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"description": "OpenAI chat chunks"}}
    return operation


def _usage() -> Json:
    amounts = ("used_cost_usd", "remaining_cost_usd", "max_cost_usd")
    answer = {"type": "object", "properties": dict.fromkeys(amounts, _NUMBER), "required": list(amounts)}
    operation = _get("Ridges contract", "What the run has used", answer, errors=("400", "401", "403", "422", "503"))
    run = {"name": "evaluation_run_id", "in": "query", "required": True, "schema": _TEXT | {"format": "uuid"}}
    return operation | {"security": [{"run_token": []}], "parameters": [run]}


def _list(tag: str, of: str) -> Json:
    return _get(tag, "The models, one entry for each provider", {"type": "array", "items": _ref(of)}, errors=())


def _model(tag: str) -> Json:
    operation = _get(tag, "One model", {"type": "object"}, errors=("404",))
    return operation | {"parameters": [{"name": "name", "in": "path", "required": True, "schema": _TEXT}]}


def _errors(statuses: tuple[str, ...]) -> Json:
    return {status: _json(ERRORS[status], _ref("Error")) for status in statuses}


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _written_schemas() -> Json:
    listed = {"name": _TEXT, "external_name": _TEXT, "max_input_tokens": {"type": "integer"}}
    per_token = {"cost_usd_per_million_input_tokens": _PRICE}
    limit = {"type": ["integer", "null"], "minimum": 1}
    amount = {"type": ["integer", "string"], "description": "of the limit that is reached; USD as text"}
    return {
        "ChatRequest": _object(
            {
                "model": _TEXT,
                "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
                "stream": {"type": ["boolean", "null"]},
                "max_tokens": limit,
                "max_completion_tokens": limit,
                "n": limit | {"maximum": 128},
            },
            ("model", "messages"),
        ),
        "OpenAIEmbeddingRequest": _object(
            {"model": _TEXT, "input": {"anyOf": [_TEXT, {"type": "array"}]}}, ("model", "input")
        ),
        "InferenceModel": _object(
            listed | {"cost_usd_per_million_input_tokens": _NUMBER, "cost_usd_per_million_output_tokens": _NUMBER}
        ),
        "EmbeddingModel": _object(
            listed
            | {"pricing_mode": {"enum": ["per_token", "per_second"]}}
            | per_token
            | {"cost_usd_per_second": _PRICE}
        ),
        "Error": _object(
            {
                "detail": {"anyOf": [_TEXT, {"type": "array", "items": {"type": "object"}}]},
                "error": _object(
                    {"message": _TEXT, "type": _TEXT, "param": {"type": "null"}, "code": _TEXT}
                    | {"limit": amount, "current": amount},
                    ("message", "type", "param", "code"),
                ),
            },
            ("detail",),
        ),
    }


def _object(properties: Json, required: tuple[str, ...] | None = None) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties if required is None else required)}


if __name__ == "__main__":
    sys.stdout.write(openapi_text())
