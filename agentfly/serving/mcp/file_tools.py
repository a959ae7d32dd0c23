"""Images in and out of a session: opened from base64, allowed folders and addresses, saved into one folder."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from agentfly.errors import ImageError, ToolError, printable, shortened
from agentfly.images import ImageLimits, ImageView, load_image, save_image
from agentfly.images.save import file_format
from agentfly.serving.mcp.settings import McpServerSettings
from agentfly.tools import Tool, ToolResult, Toolset, tool

_LONGEST_PATH = 4096
# A text that is longer is no path, whatever it is.
_SHORT_TEXT = 512


class FileTools:
    """The tools with which a client brings images in and takes them out.

    Args:
        images: of the session.
        settings: of the server.
    """

    def __init__(self, images: ImageView, settings: McpServerSettings) -> None:
        self._images, self._settings = images, settings
        limits = settings.limits
        self._limits = ImageLimits(limits.pixels, limits.body_bytes, limits.url_seconds, allow_files=False)

    def tools(self) -> list[Tool]:
        """Return the tools that the settings allow, described accordingly."""
        found = Toolset.of(self)
        opening = found.get("open_image")
        assert opening is not None
        sources = ["base64 of an image file", "a data URI"]
        if self._settings.root:
            sources.append(f"a path in {', '.join(map(str, self._settings.root))}")
        if self._settings.limits.allow_urls:
            sources.append("a public http(s) address")
        tools = [replace(opening, description=f"{opening.description} Takes {', '.join(sources)}.")]
        if self._settings.out is not None:
            saving = found.get("save_image")
            assert saving is not None
            tools.append(replace(saving, description=f"{saving.description} Folder: {self._settings.out}"))
        return tools

    @tool
    async def open_image(self, source: str) -> ToolResult:
        """Open an image and give it an id, by which other tools take it.

        Args:
            source: the image, or where it is.
        """
        image = await asyncio.to_thread(self._open, source.strip())
        handle = await asyncio.to_thread(self._images.store.put, image)
        return ToolResult(f"{self._images.add_handle(handle)}: {image.width}x{image.height}", (handle,))

    @tool
    async def save_image(self, image_id: str, file_name: str) -> ToolResult:
        """Save an image to a new file in the folder of this server.

        Args:
            image_id: the image.
            file_name: of the file, without a folder; .png, .jpg or .webp.
        """
        path = self._new_path(file_name)
        image = await asyncio.to_thread(self._images.get, image_id)
        await asyncio.to_thread(_save_new, image, path)
        return ToolResult(f"saved as {path}")

    def _open(self, source: str) -> Image.Image:
        if source[:8].lower().startswith(("http:", "https:")):
            if not self._settings.limits.allow_urls:
                raise ToolError("addresses are not fetched here: send the image itself as base64")
            return load_image(source, self._limits)
        if source[:5].lower() == "data:" or len(source) > _LONGEST_PATH:
            return load_image(source, self._limits)
        path = path_within(self._settings.root, source)
        # The base64 of a small image looks like a path, too.
        if path is None or not os.path.lexists(path):
            try:
                return load_image(source, self._limits)
            except ImageError:
                if len(source) > _SHORT_TEXT:
                    raise
        if path is not None:
            return load_image(_read(path, self._settings.root, self._limits.max_bytes), self._limits)
        where = " or ".join(map(str, self._settings.root))
        raise ToolError(
            f"{_shown(source)} is not in a folder that may be read: give a path in {where}, or the base64 of the image"
            if where
            else "this is no base64 of an image, and paths are not opened here: send the image itself as base64"
        )

    def _new_path(self, file_name: str) -> Path:
        out = self._settings.out
        assert out is not None, "the tool is offered only with a folder"
        plain = file_name.isprintable() and Path(file_name).name == file_name and not file_name.startswith(".")
        if not file_name or not plain:
            raise ToolError(f"{_shown(file_name)} is no plain file name: give one without folders, such as edited.png")
        file_format(file_name)
        return out / file_name


def path_within(roots: Sequence[Path], text: str) -> Path | None:
    """Return the path of a text, links followed, if it lies in one of the folders; None otherwise.

    Args:
        roots: folders, links followed. A path that is relative is one of each.
        text: of a client.
    """
    for root in roots:
        try:
            path = (root / text).resolve()
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
            continue
        if path.is_relative_to(root) and path != root:
            return path
    return None


def _read(path: Path, roots: Sequence[Path], most: int) -> bytes:
    """Return the bytes of a file. What was opened is checked again: a link may have come in between."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status, real = os.fstat(opened), Path(os.readlink(f"/proc/self/fd/{opened}"))
            if not stat.S_ISREG(status.st_mode) or not any(real.is_relative_to(root) for root in roots):
                raise ToolError(f"{_shown(str(path))} is no image file")
            if status.st_size > most:
                raise ToolError(f"{_shown(str(path))} has {status.st_size} bytes, {most} are allowed: resize it")
            with open(opened, "rb", closefd=False) as file:
                return file.read(most + 1)
        finally:
            # `open` closes no descriptor that it refuses, such as that of a folder.
            os.close(opened)
    except OSError as fault:
        raise ToolError(f"cannot read {_shown(str(path))}: {fault.strerror}") from fault


def _save_new(image: Image.Image, path: Path) -> None:
    """Save an image to a new file. The name is taken first, so that of several calls with one name one succeeds."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError as fault:
        raise ToolError(f"there is a file {_shown(path.name)} already: give another name") from fault
    except OSError as fault:
        raise ToolError(f"cannot write {_shown(str(path))}: {fault.strerror}") from fault
    try:
        save_image(image, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _shown(text: str) -> str:
    return repr(shortened(printable(text)))
