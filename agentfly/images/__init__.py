"""Images: loading them safely, keeping them by content, and writing them."""

from agentfly.images.load import ImageLimits, ImageSource, load_image
from agentfly.images.save import file_format, on_white, save_image
from agentfly.images.store import ImageStore, ImageView, handle_of

__all__ = [
    "ImageLimits",
    "ImageSource",
    "ImageStore",
    "ImageView",
    "file_format",
    "handle_of",
    "load_image",
    "on_white",
    "save_image",
]
