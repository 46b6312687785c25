"""The Ridges dialect of model calls, to OpenAI's and back. Source: agent contract, section 2."""

import re
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec

from ridges.gateway.calls import UNREADABLE, Fields, MalformedReply, ModelCall, encoded
from ridges.gateway.errors import BodyInvalid, ToolRuleBroken

NO_TOOLS_ALLOWED = "If you specify a tool mode of NONE, you must not specify any tools."
TOOL_NEEDED = "If you specify a tool mode of REQUIRED, you must specify at least one tool."

Body = TypeVar("Body", bound=msgspec.Struct)


class ToolParameter(msgspec.Struct, frozen=True):
    type: Literal["boolean", "integer", "number", "string", "array", "object"]
    name: str
    description: str
    required: bool = False


class Tool(msgspec.Struct, frozen=True):
    name: str
    description: str
    parameters: list[ToolParameter]


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str


class _NamesRun(msgspec.Struct, frozen=True, kw_only=True):
    evaluation_run_id: UUID | None = None
    run_id: UUID | None = None
    """Older agents."""

    @property
    def named_run(self) -> UUID:
        named = self.evaluation_run_id or self.run_id
        if named is None:
            raise BodyInvalid(("body", "evaluation_run_id"), "Field required")
        return named


class InferenceRequest(_NamesRun, frozen=True, kw_only=True):
    """Body of ``POST /api/inference``."""

    model: str
    temperature: float
    messages: list[Message]
    tool_mode: Literal["none", "auto", "required"] | None = None
    tools: list[Tool] | None = None

    @property
    def wants_bare_content(self) -> bool:
        """The older dialect: only ``run_id``, and the reply is the content alone."""
        return self.evaluation_run_id is None


class EmbeddingRequest(_NamesRun, frozen=True, kw_only=True):
    """Body of ``POST /api/embedding``."""

    model: str
    input: str


class ToolArgument(msgspec.Struct, frozen=True):
    name: str
    value: Any


class CalledTool(msgspec.Struct, frozen=True):
    name: str
    arguments: list[ToolArgument]


class InferenceAnswer(msgspec.Struct, frozen=True):
    """Reply of ``POST /api/inference``."""

    content: str
    tool_calls: list[CalledTool]


class EmbeddingAnswer(msgspec.Struct, frozen=True):
    """Reply of ``POST /api/embedding``."""

    embedding: list[float]


def read_body(body: bytes, kind: type[Body]) -> Body:
    """The body, or BodyInvalid (422) that says which field is wrong. Numbers may be text, as in the public system."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise BodyInvalid(("body", *_steps(path.rstrip("`")), *_missing(message)), message) from error
    except UNREADABLE as error:
        raise BodyInvalid(("body",), f"not JSON: {error}") from error


def check_tool_rules(request: InferenceRequest) -> None:
    """Raises ToolRuleBroken (422). Source: agent contract."""
    mode = request.tool_mode or "none"
    if mode == "none" and request.tools:
        raise ToolRuleBroken(NO_TOOLS_ALLOWED)
    if mode == "required" and not request.tools:
        raise ToolRuleBroken(TOOL_NEEDED)


def chat_call(
    request: InferenceRequest, received: bytes, key: str | None = None, trace: str | None = None
) -> ModelCall:
    fields: Fields = {"messages": encoded(request.messages), "temperature": encoded(request.temperature)}
    if request.tools and request.tool_mode in ("auto", "required"):
        fields["tools"] = encoded([_openai_tool(tool) for tool in request.tools])
        fields["tool_choice"] = encoded(request.tool_mode)
    return ModelCall(
        kind="chat", model=request.model, fields=fields, received=received, idempotency_key=key, traceparent=trace
    )


def embedding_call(
    request: EmbeddingRequest, received: bytes, key: str | None = None, trace: str | None = None
) -> ModelCall:
    fields = {"input": encoded(request.input)}
    return ModelCall(
        kind="embedding", model=request.model, fields=fields, received=received, idempotency_key=key, traceparent=trace
    )


def _openai_tool(tool: Tool) -> dict[str, Any]:
    properties: dict[str, Any] = {
        parameter.name: {"type": parameter.type, "description": parameter.description} for parameter in tool.parameters
    }
    for schema in properties.values():
        if schema["type"] == "array":
            schema["items"] = {}  # OpenAI refuses arrays without; the contract says nothing of the items
    required = [parameter.name for parameter in tool.parameters if parameter.required]
    schema = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": schema},
    }


class _Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] = ""


class _ToolCall(msgspec.Struct):
    function: _Function


class _Part(msgspec.Struct):
    text: str = ""


class _Said(msgspec.Struct):
    content: str | list[_Part] | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Said
    error: Any = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Vector(msgspec.Struct):
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Vector]


def inference_answer(body: bytes) -> InferenceAnswer:
    """The answer in a provider's reply.

    Raises:
        MalformedReply: no choice, or tool arguments that are no JSON object.

    """
    try:
        choices = msgspec.json.decode(body, type=_Completion).choices
    except UNREADABLE as error:
        raise MalformedReply(f"no chat completion: {error}") from error
    if not choices:
        raise MalformedReply("no chat completion: it has no choices")
    if isinstance(choices[0].error, dict):  # OpenRouter: the model's own provider broke off
        raise MalformedReply(f"an error instead of an answer: {str(choices[0].error)[:500]}")
    said = choices[0].message
    content = "".join(part.text for part in said.content) if isinstance(said.content, list) else said.content
    return InferenceAnswer(
        content=content or "", tool_calls=[_called_tool(call.function) for call in said.tool_calls or ()]
    )


def embedding_answer(body: bytes) -> EmbeddingAnswer:
    """The vector in a provider's reply. Raises MalformedReply."""
    try:
        rows = msgspec.json.decode(body, type=_Embeddings).data
    except UNREADABLE as error:
        raise MalformedReply(f"no embedding: {error}") from error
    if not rows:
        raise MalformedReply("no embedding: the list is empty")
    return EmbeddingAnswer(embedding=rows[0].embedding)


def _called_tool(function: _Function) -> CalledTool:
    arguments = function.arguments
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise MalformedReply(f"the arguments of tool call {function.name} are no JSON object: {error}") from error
    return CalledTool(function.name, [ToolArgument(name, value) for name, value in arguments.items()])


def _steps(path: str) -> list[str | int]:
    """``.messages[0].content`` -> messages, 0, content."""
    found = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path)
    return [int(index) if index else name for name, index in found]


def _missing(message: str) -> list[str]:
    found = re.search(r"missing required field `([^`]*)`", message)
    return [found.group(1)] if found else []
