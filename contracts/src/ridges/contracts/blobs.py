"""References to content-addressed blobs: events carry these, never the contents."""

import hashlib
import re

import msgspec

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """A blob named by its contents."""

    digest: str
    """``sha256:`` and 64 lower-case hex digits."""
    size: int
    """Bytes."""
    media_type: str

    def __post_init__(self) -> None:
        if not DIGEST.fullmatch(self.digest):
            raise ValueError(f"{self.digest!r} is not a digest; expected sha256:<64 hex digits>")


def digest_of(content: bytes) -> str:
    """The digest that names the content."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def ref_to(content: bytes, media_type: str) -> BlobRef:
    """The reference under which the content is stored."""
    return BlobRef(digest=digest_of(content), size=len(content), media_type=media_type)
