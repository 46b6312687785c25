"""Uploads."""

from dataclasses import dataclass
from typing import Annotated

from litestar import Request, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import HeaderParameter

from ridges.chassis.ports import BlobStore
from ridges.contracts.blobs import BlobRef
from ridges.ledger.routes.failures import failures

MAX_BLOB_BYTES = 16 * 1024 * 1024
_MEDIA_TYPE = r"^[\w.+-]+/[\w.+-]+(; ?[\w=-]+)*$"

UploadType = Annotated[str, HeaderParameter(name="X-Media-Type", max_length=200, pattern=_MEDIA_TYPE)]


def raw_body(media_type: str, *, binary: bool = False) -> type[Operation]:
    """For a route's ``operation_class``: the body is read as it is, whatever its content type says."""

    @dataclass
    class RawBody(Operation):
        def __post_init__(self) -> None:
            schema = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY if binary else None)
            self.request_body = RequestBody(required=binary, content={media_type: OpenAPIMediaType(schema=schema)})

    return RawBody


def blob_routes(blobs: BlobStore) -> list[HTTPRouteHandler]:
    """The route."""

    @post(
        "/v1/blobs",
        operation_id="upload",
        operation_class=raw_body("application/octet-stream", binary=True),
        tags=["blobs"],
        summary="Store bytes; name them by the digest in the answer",
        request_max_body_size=MAX_BLOB_BYTES,
        responses=failures(400, 413, 422),
    )
    async def upload(
        request: Request[None, None, State], media_type: UploadType = "application/octet-stream"
    ) -> BlobRef:
        return await blobs.put(await request.body(), media_type)

    return [upload]
