"""Uploads."""

from typing import Annotated

from litestar import MediaType, Request, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import HeaderParameter

from ridges.chassis.ports import BlobStore
from ridges.contracts.blobs import BlobRef

MAX_BLOB_BYTES = 16 * 1024 * 1024

UploadType = Annotated[
    str, HeaderParameter(name="X-Media-Type", max_length=200, pattern=r"^[\w.+-]+/[\w.+-]+(; ?[\w=-]+)*$")
]


def blob_routes(blobs: BlobStore) -> list[HTTPRouteHandler]:
    """The route."""

    @post(
        "/v1/blobs",
        request_max_body_size=MAX_BLOB_BYTES,
        tags=["blobs"],
        summary="Store bytes; name them by the digest in the answer",
        media_type=MediaType.JSON,
    )
    async def upload(
        request: Request[None, None, State], media_type: UploadType = "application/octet-stream"
    ) -> BlobRef:
        return await blobs.put(await request.body(), media_type)

    return [upload]
