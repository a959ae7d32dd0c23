"""Read the replies of images APIs, in all the forms that servers and gateways give them."""

from __future__ import annotations

import base64

from PIL import Image

from agentfly.images import ImageLimits, load_image
from agentfly.lenient_json import field_of

# A server may send the bytes of an image or a public address, never a path on this machine.
_LIMITS = ImageLimits(allow_files=False)


def first_image(reply: object) -> str | None:
    """Return the first image of a reply, as base64, data URI or address; None where there is none.

    Args:
        reply: plain JSON, or the SDK's object. The SDK passes on a body that is no JSON, or JSON of another form.
    """
    data = field_of(reply, "data")
    first = data[0] if isinstance(data, list) and data else data
    found = (first, field_of(first, "b64_json"), field_of(first, "url"))
    return next((text for text in found if isinstance(text, str) and text), None)


def decode_image(text: str) -> tuple[Image.Image, bytes | None]:
    """Return the image of a text of `first_image`, and its file where the text is plain base64.

    Raises:
        ImageError: the text is no image, or an address that is not public.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        return load_image(text, _LIMITS), None
    return load_image(content, _LIMITS), content
