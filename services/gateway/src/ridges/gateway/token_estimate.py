"""How many tokens a text has, where no provider tells. Pure, without a vocabulary.

Splits text as the usual tokenizers do before they merge bytes, and counts each piece by its kind. Measured against
o200k_base (ADR 24): 3 % off on average for code, where a quarter of the bytes is 7 % off; right in sum for prose, with
large errors for tables and drawings; 8 % low for data. An exact count would need each model's own vocabulary.
"""

import re

_PIECE = re.compile(r"[^\W\d_]+|\d{1,3}|_+|[^\S\n]+(?=\S)|\s+|[^\w\s]+")
WORD_CHARS = 7
"""Longer words are cut into pieces of this length."""
BYTES_OF_OTHER_SCRIPTS = 7
BYTES_OF_IDEOGRAMS = 5
SIGNS = 2
"""Punctuation marks of one token."""
SAMPLED_CHARS = 200_000
"""Of longer texts only so much is read: an estimate must not hold up other calls."""
PER_MESSAGE = 4
"""Tokens that chat templates put around a message."""


def count_tokens(text: str) -> int:
    """A fair guess, rounded up."""
    if not text:
        return 0
    sample = text[:SAMPLED_CHARS]
    tenths = sum([_tenths(piece) for piece in _PIECE.findall(sample)])
    return -(-tenths * len(text) // (10 * len(sample)))


def _tenths(piece: str) -> int:
    """Tenths of a token."""
    first, size = piece[0], len(piece)
    if first.isalpha():
        if piece.isascii():
            return 10 if size <= WORD_CHARS else 10 * size // WORD_CHARS
        per_token = BYTES_OF_IDEOGRAMS if first >= "\u2e80" else BYTES_OF_OTHER_SCRIPTS
        return max(10, 10 * len(piece.encode(errors="replace")) // per_token)
    if first.isdigit():
        return 10
    if first.isspace():
        return 0 if piece == " " else 10
    return max(8, 8 * size // SIGNS)
