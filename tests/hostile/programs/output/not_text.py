"""Writes bytes that are no text: lone surrogates, overlong forms, terminal controls, zeros."""

import os

os.write(1, bytes(range(256)) + b"\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\x1b[2J\x1b]0;title\x07\0" * 10)
