"""Images: loaded safely, kept by content, encoded and written."""

from agentfly.images.data_uris import DataUris
from agentfly.images.encoding import data_uri, encode_image, from_base64, to_base64
from agentfly.images.load import ImageLimits, ImageSource, load_image
from agentfly.images.masks import load_mask, read_mask
from agentfly.images.pixels import on_white, without_transparency
from agentfly.images.save import file_format, save_image
from agentfly.images.store import ImageStore, handle_of
from agentfly.images.view import ImageView

__all__ = [
    "DataUris",
    "ImageLimits",
    "ImageSource",
    "ImageStore",
    "ImageView",
    "data_uri",
    "encode_image",
    "file_format",
    "from_base64",
    "handle_of",
    "load_image",
    "load_mask",
    "on_white",
    "read_mask",
    "save_image",
    "to_base64",
    "without_transparency",
]
