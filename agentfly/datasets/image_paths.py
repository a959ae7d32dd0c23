"""Restrict the images that a data set names to its own folder, unless its user allows other places."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from agentfly.errors import DatasetError, shortened
from agentfly.images import ImageSource

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|file:", re.IGNORECASE)


def option(name: str, value: object) -> str:
    """Return the spelling of a data set's option for each command and for a recipe, ready to paste.

    Args:
        name: of the option.
        value: JSON-able.
    """
    text, whole = json.dumps(value, ensure_ascii=False), json.dumps({name: value}, ensure_ascii=False)
    return (
        f"{shlex.join(['--set', f'{name}={text}'])} (`agentfly data`), {shlex.join(['--data-options', whole])} "
        f"(`agentfly eval`), agentfly.data.options: {whole} (a recipe)"
    )


_TRUST = f"if you trust this data set, give {option('allow_outside', True)}"


@dataclass(frozen=True)
class ImageFolder:
    """The places from which a data set may take images.

    A foreign file must not make us read `/etc` or ask a server in our network.

    Attributes:
        folder: of the data set; None where its rows hold all images.
        allow_outside: also take absolute paths, paths that lead out of the folder, and URLs.
    """

    folder: Path | None
    allow_outside: bool = False

    def source(self, image: object) -> ImageSource:
        """Return the source of an image column for `load_image`: bytes, a decoded image, a data URI, or a path.

        Columns of `datasets` hold `{"bytes": ..., "path": ...}`, others also `{"url": ...}`: what is not empty counts.

        Raises:
            DatasetError: the image is named by a path or URL that is not allowed, or is no image at all.
        """
        if isinstance(image, Mapping):
            content = image.get("bytes")
            if isinstance(content, str) and content:
                return f"data:;base64,{content}"
            image = content or image.get("path") or image.get("url")
        if isinstance(image, (bytes, Image.Image)):
            return image
        if isinstance(image, (bytearray, memoryview)):
            return bytes(image)
        if not (isinstance(image, (str, os.PathLike)) and str(image)):
            raise DatasetError(f"an image is given as {type(image).__name__}: give a path, or the bytes of a file")
        name = str(image)
        if name[:5].lower() == "data:":
            return name
        if _URL.match(name):
            if self.allow_outside:
                return name
            raise DatasetError(f"an image is named by URL: {_TRUST}")
        if self.folder is None:
            raise DatasetError(f"an image is named by path ({shortened(name)!r}) where its bytes belong")
        folder = self.folder.resolve()
        try:
            path = (folder / name).resolve()
        except (ValueError, OSError) as fault:
            raise DatasetError(f"{shortened(name)!r} can be no path of an image ({fault})") from fault
        if not self.allow_outside and not path.is_relative_to(folder):
            raise DatasetError(
                f"image {shortened(name)!r} lies outside the data set's own folder: move it there, or {_TRUST}"
            )
        return path
