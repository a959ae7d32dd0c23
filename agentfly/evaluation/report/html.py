"""Parts of pages in a single HTML file: their templates, and images as data URIs."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from agentfly.images import data_uri

_FOLDER = Path(__file__).parent
_MAX_SIDE = 336  # of an image on the page: twice the 168 pixels it is shown at


def page_templates(*folders: Path) -> Environment:
    """Return the environment of the templates of this folder and of others; it escapes all values."""
    return Environment(
        loader=FileSystemLoader((_FOLDER, *folders)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def image_uri(image: Image.Image) -> str:
    """Return an image as a data URI no larger than it is shown.

    Masks and transparent images become PNG, the others JPEG. Pages are kept and sent, so size counts more than time.
    """
    small = image.copy()
    small.thumbnail((_MAX_SIDE, _MAX_SIDE))
    if small.mode in ("L", "RGBA"):
        return data_uri(small, "png", optimize=True)
    return data_uri(small, "jpeg", quality=90, subsampling=0)
