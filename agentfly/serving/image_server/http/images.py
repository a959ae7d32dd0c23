"""Decode and encode the images of requests in threads: nothing too large is decoded, no path is opened."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, ParamSpec, TypeVar

import numpy as np
from PIL import Image

from agentfly.errors import ImageError
from agentfly.images.fetch import fetch
from agentfly.images.load import ImageLimits, load_image
from agentfly.serving.image_server.errors import RequestRefused
from agentfly.serving.image_server.settings import UploadLimits

P = ParamSpec("P")
T = TypeVar("T")
Source = bytes | str


class Coder:
    """Decodes and encodes images off the event loop.

    Args:
        limits: what is accepted.
        threads: images coded at once, which bounds the memory that decoding takes.
    """

    def __init__(self, limits: UploadLimits, threads: int = 4) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="coder")

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def decode(self, sources: Sequence[Source], param: str = "image") -> list[Image.Image]:
        """Images of a request: uploads, data URIs, base64, and addresses where those are allowed.

        Raises:
            RequestRefused: not an image, too large, or from where images are not taken.
        """
        if len(sources) > self._limits.images:
            raise RequestRefused(f"{self._limits.images} images a request at most", param=param)
        images: list[Image.Image] = []
        left = self._limits.total_pixels
        for source in sources:
            try:
                data = await self._fetched(source)
                image = await self._run(load_image, data, self._image_limits(left))
            except ImageError as fault:
                raise RequestRefused(str(fault), code="invalid_image", param=param) from fault
            left -= image.width * image.height
            images.append(image)
        return images

    async def decode_mask(self, source: Source, size: tuple[int, int]) -> Image.Image:
        """The mask of a request as mode L, white = change; see `as_mask`.

        Raises:
            RequestRefused: not an image, or not of the size of the image that it is for.
        """
        (image,) = await self.decode([source], "mask")
        if image.size != size:
            raise RequestRefused(
                f"the mask is {image.width}x{image.height} but the image {size[0]}x{size[1]}: send a mask of its size",
                param="mask",
            )
        return await self._run(as_mask, image)

    async def encode(self, image: Image.Image, form: str = "png", size: tuple[int, int] | None = None) -> str:
        """Base64 of an image, resized to `size` where one is given."""
        return await self._run(_encode, image, form, size)

    async def _fetched(self, source: Source) -> Source:
        if not isinstance(source, str) or not source.lstrip()[:8].lower().startswith(("http:", "https:")):
            return source
        if not self._limits.allow_urls:
            raise RequestRefused(
                "addresses are not fetched here: send the image itself, or ask the operator for --allow-urls",
                code="urls_off",
                param="image",
            )
        # A slow server must not keep others from being decoded, so this waits in another pool of threads.
        return await asyncio.to_thread(
            fetch, source.strip(), timeout=self._limits.url_seconds, max_bytes=self._limits.body_bytes
        )

    def _image_limits(self, pixels_left: int) -> ImageLimits:
        return ImageLimits(
            max_pixels=max(1, min(self._limits.pixels, pixels_left)),
            max_bytes=self._limits.body_bytes,
            allow_files=False,
        )

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._threads.submit(work, *args, **kwargs))


def as_mask(image: Image.Image) -> Image.Image:
    """A mask as mode L, white = change.

    An image with transparent pixels is a mask as OpenAI has it: transparent = change. Any other is as diffusers has
    it: white = change.
    """
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < 255:
            return Image.fromarray(255 - alpha)
    return image.convert("L")


def _encode(image: Image.Image, form: str, size: tuple[int, int] | None) -> str:
    if size is not None and image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    if form == "jpeg" and image.mode == "RGBA":
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
        image = flat
    buffer = BytesIO()
    # The fastest compression: a network is quicker than zlib, and a GPU waits for neither.
    options: dict[str, Any] = {"compress_level": 1} if form == "png" else {"quality": 95}
    image.save(buffer, form.upper(), **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
