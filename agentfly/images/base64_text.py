"""Decode base64 that comes from outside, in time that grows with its length."""

from __future__ import annotations

import base64
import binascii

_SPACES = b" \t\n\r\v\f"
_STANDARD = bytes.maketrans(b"-_", b"+/")


def decode_base64(text: str) -> bytes | None:
    """Return the bytes of a base64 text, or None if it is not base64.

    Spaces and line breaks are ignored. The URL-safe alphabet and missing padding are accepted. There is no regular
    expression here on purpose: one that allows spaces between and after the digits takes quadratic time on spaces.
    """
    try:
        compact = text.encode("ascii").translate(_STANDARD, _SPACES)
    except (UnicodeEncodeError, AttributeError):  # a field of somebody's JSON may hold anything
        return None
    digits = compact.rstrip(b"=")
    if not digits or len(compact) - len(digits) > 2:
        return None
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        return None
