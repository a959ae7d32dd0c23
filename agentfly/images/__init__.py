"""Pictures: loading them safely, and keeping them by content."""

from agentfly.images.load import ImageLimits, ImageSource, load_image
from agentfly.images.store import ImageStore, ImageView, handle_of

__all__ = ["ImageLimits", "ImageSource", "ImageStore", "ImageView", "handle_of", "load_image"]
