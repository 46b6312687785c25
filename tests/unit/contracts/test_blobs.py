"""References to blobs."""

import pytest

from ridges.contracts.blobs import BlobRef, digest_of, ref_to


def test_a_reference_names_its_content():
    ref = ref_to(b"abc", "text/plain")
    assert ref.digest == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (ref.size, ref.digest) == (3, digest_of(b"abc"))


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "a" * 64, "../../x"])
def test_what_is_no_digest_is_refused(digest):
    with pytest.raises(ValueError, match="expected sha256:"):
        BlobRef(digest=digest, size=0, media_type="text/plain")
