"""Write images to files whose suffix names the format."""

from __future__ import annotations

import errno
from pathlib import Path

from PIL import Image

from agentfly.errors import ImageError
from agentfly.files import written_whole
from agentfly.images.pixels import normalise, on_white

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# A file that is mounted alone, or lies in a folder that is read-only, can be written and not replaced.
_IRREPLACEABLE = (errno.EBUSY, errno.EACCES, errno.EPERM)
_OPTIONS: dict[str, dict[str, int]] = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}


def file_format(path: str | Path) -> str:
    """Return the image format of a file name: "PNG", "JPEG" or "WEBP".

    Raises:
        ImageError: the suffix names none of them.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        shown = f"suffix {suffix!r}" if suffix else "no suffix"
        raise ImageError(f"{str(path)!r} has {shown}: images are saved as {', '.join(_FORMATS)}")
    return _FORMATS[suffix]


def save_image(image: Image.Image, path: str | Path) -> Path:
    """Write an image and return its path; the parent folder is made. After an error an earlier file is still whole.

    JPEG has no transparency: transparent parts become white.

    Args:
        image: any image.
        path: its suffix names the format.

    Raises:
        ImageError: the suffix names no known format, or the file cannot be written.
    """
    kind, path = file_format(path), Path(path).expanduser()
    image = normalise(image)
    if kind == "JPEG" and image.mode == "RGBA":
        image = on_white(image)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A link is written through, not replaced.
        target = path.resolve()
        try:
            with written_whole(target) as partial:
                image.save(partial, kind, **_OPTIONS.get(kind, {}))
        except OSError as fault:
            if fault.errno not in _IRREPLACEABLE or not target.is_file():
                raise
            image.save(target, kind, **_OPTIONS.get(kind, {}))
    except (OSError, ValueError, RuntimeError) as fault:
        # Encoders have limits of their own, such as 16383 pixels a side for WebP.
        reason = fault.strerror if isinstance(fault, OSError) else None
        raise ImageError(f"cannot write {str(path)!r}: {reason or fault}") from fault
    return path
