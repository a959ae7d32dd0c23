"""Load the images that a data set names from its own folder only, unless its user allows other places."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from agentfly.errors import DatasetError
from agentfly.images import ImageSource

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|file:", re.IGNORECASE)


def option(name: str, value: Any) -> str:
    """Return how an option of a data set is given, for each place in words that can be pasted there."""
    text, whole = json.dumps(value, ensure_ascii=False), json.dumps({name: value}, ensure_ascii=False)
    return (
        f"{shlex.join(['--set', f'{name}={text}'])} (`agentfly data`), {shlex.join(['--data-options', whole])} "
        f"(`agentfly eval`), agentfly.data.options: {whole} (a recipe)"
    )


_TRUST = f"if you trust this data set, give {option('allow_outside', True)}"


@dataclass(frozen=True)
class ImageFolder:
    """Where the images of a data set may be.

    A file that somebody else wrote must not make us read `/etc` or ask a server in our network.

    Attributes:
        folder: the data set's own; None where it holds all images in itself.
        allow_outside: also take absolute paths, paths that lead out of the folder, and URLs.
    """

    folder: Path | None
    allow_outside: bool = False

    def source(self, image: Any) -> ImageSource:
        """What `load_image` opens for an image column: bytes, a decoded image, a data URI, or the path of a file.

        Raises:
            DatasetError: the image is named by a path or URL that is not allowed, or is no image at all.
        """
        if isinstance(image, Mapping):
            image = image.get("bytes") if image.get("bytes") is not None else image.get("path")
        if isinstance(image, (bytes, Image.Image)):
            return image
        if isinstance(image, (str, os.PathLike)) and str(image):
            return self._named(str(image))
        raise DatasetError(f"an image is given as {type(image).__name__}: give a path, or the bytes of a file")

    def _named(self, name: str) -> ImageSource:
        if name[:5].lower() == "data:":
            return name
        if _URL.match(name):
            if self.allow_outside:
                return name
            raise DatasetError(f"an image is named by URL: {_TRUST}")
        if self.folder is None:
            raise DatasetError(f"an image is named by path ({name!r}) where its bytes belong")
        folder = self.folder.resolve()
        path = (folder / name).resolve()
        if not self.allow_outside and not path.is_relative_to(folder):
            raise DatasetError(f"image {name!r} lies outside the data set's own folder: move it there, or {_TRUST}")
        return path
