"""Decoding and encoding of the images of requests in threads; nothing too large is decoded, no path is opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from PIL import Image

from agentfly.errors import ImageError
from agentfly.images import ImageLimits, load_image, to_base64
from agentfly.images.encoding import Format
from agentfly.images.fetch import fetch
from agentfly.images.masks import keep_levels, read_mask
from agentfly.images.pixels import in_srgb
from agentfly.serving.errors import RequestRefused
from agentfly.serving.image_server.settings import UploadLimits
from agentfly.serving.request_data import HeldMemory

P = ParamSpec("P")
T = TypeVar("T")
Source = bytes | str


class Coder:
    """A decoder and encoder of images that works off the event loop.

    Args:
        limits: of the images of a request.
    """

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        # Their number bounds the memory that images take at once.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="coder")

    def close(self) -> None:
        """End the threads without waiting for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def decode(self, sources: Sequence[Source], held: HeldMemory, param: str = "image") -> list[Image.Image]:
        """Return the images of a request.

        Args:
            sources: uploads, data URIs, base64 texts, and addresses where those are allowed.
            held: memory of the request; each image is added to it before it is decoded.
            param: field that they come from, for errors.

        Raises:
            RequestRefused: a source is no image, is too large, or is of a kind that is not allowed.
            ServerFault: all requests together hold too much memory.
        """
        if len(sources) > self._limits.images:
            raise RequestRefused(f"{self._limits.images} images a request at most", param=param)
        images: list[Image.Image] = []
        left = self._limits.total_pixels
        for source in sources:
            try:
                before = held.size
                data = await self._fetch(source, held)
                fetched = held.size - before
                limits = ImageLimits(
                    max_pixels=max(1, min(self._limits.pixels, left)),
                    max_bytes=self._limits.body_bytes,
                    allow_files=False,
                    hold=held.take,
                )
                image = await self.in_thread(_load, data, limits, held, keep_levels if param == "mask" else in_srgb)
            except ImageError as fault:
                raise RequestRefused(str(fault), code="invalid_image", param=param) from fault
            held.take(-fetched)
            left -= image.width * image.height
            images.append(image)
        return images

    async def decode_mask(self, source: Source, held: HeldMemory, size: tuple[int, int]) -> Image.Image:
        """Return the mask of a request as mode L, white = change; see `read_mask`.

        Args:
            source, held: as for `decode`.
            size: width and height of the image that it is for.

        Raises:
            RequestRefused: the source is no mask, or of another size.
        """
        (image,) = await self.decode([source], held, "mask")
        if image.size != size:
            raise RequestRefused(
                f"the mask is {image.width}x{image.height} but the image {size[0]}x{size[1]}: send a mask of its size",
                param="mask",
            )
        try:
            return (await self.in_thread(read_mask, image)).image
        except ImageError as fault:
            raise RequestRefused(str(fault), code="invalid_image", param="mask") from fault

    async def encode(self, image: Image.Image, form: Format = "png", size: tuple[int, int] | None = None) -> str:
        """Return the base64 of an image file.

        Args:
            image: the image.
            form: of the file.
            size: width and height to resize the image to; None leaves it as it is.
        """

        def resize_and_encode() -> str:
            resized = image if size is None else image.resize(size, Image.Resampling.LANCZOS)
            return to_base64(resized, form)

        return await self.in_thread(resize_and_encode)

    async def _fetch(self, source: Source, held: HeldMemory) -> Source:
        """Return the bytes behind an address, which are added to `held`, and any other source as it is."""
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
            fetch,
            source.strip(),
            timeout=self._limits.url_seconds,
            max_bytes=self._limits.body_bytes,
            hold=held.take,
        )

    async def in_thread(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in one of the threads."""
        return await asyncio.wrap_future(self._threads.submit(work, *args, **kwargs))


def _load(
    source: Source, limits: ImageLimits, held: HeldMemory, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    # The digits, the digits without spaces, and the bytes.
    with held.during(3 * len(source) if isinstance(source, str) else 0):
        return load_image(source, limits, convert)
