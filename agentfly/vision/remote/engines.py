"""The three engines of the image tools on a pool of servers; local engines do what no server offers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Generic, TypeVar

from PIL import Image

from agentfly.errors import EngineUnavailable
from agentfly.images import encode_image, on_white
from agentfly.vision.base import (
    MOST_IMAGES,
    Delegating,
    Detection,
    Detector,
    Editor,
    EditParams,
    Engines,
    Inpainter,
    InpaintParams,
    MultiImageEditor,
    edit_images,
    given_params,
)
from agentfly.vision.cached_engines import move_cache
from agentfly.vision.remote.adapters import Call, Operation, read_detections, read_image
from agentfly.vision.remote.pool import NodePool, NotOffered
from agentfly.vision.remote.settings import NodeSpecs, PoolSettings, read_nodes
from agentfly.vision.remote.statistics import PoolStatistics

T = TypeVar("T")
E = TypeVar("E", Detector, Inpainter, Editor)


class _Remote(Delegating, Generic[E]):
    """An engine behind the pool, with a local engine for when no server does the operation.

    Its `name` is that of the engine that did the last call of the current task: of calls side by side, one may have
    been done by a server and another here.
    """

    operation: ClassVar[Operation]

    def __init__(self, pool: NodePool, otherwise: Callable[[], E]) -> None:
        self._pool = pool
        self._otherwise: Callable[[], E] = otherwise
        self._maker = ContextVar(f"agentfly_remote_{self.operation}", default="remote")

    @property
    def name(self) -> str:
        """The models that did the last call; "remote" before the first."""
        return self._maker.get()

    async def _ask(
        self,
        build: Callable[[], Call],
        read: Callable[[bytes], T],
        here: Callable[[E], Awaitable[T]],
        images: int = 1,
    ) -> T:
        """Return the answer of a server, or of the local engine where no server does the operation."""
        operation = self._operation(images)
        try:
            result = await self._pool.call(operation, build, read)
        except NotOffered:
            engine = self._otherwise()
            self._maker.set(engine.name)
            return await here(engine)
        self._note_maker(operation)
        return result

    def _operation(self, images: int) -> Operation:
        """Return the operation of a call with so many images."""
        return self.operation

    async def maker(self, images: int = 1) -> str:
        """Return the models that do it now, with their versions; the local engine where no server does it."""
        operation = self._operation(images)
        try:
            makers = await self._pool.makers(operation)
        except NotOffered:
            name = self._otherwise().name
            self._maker.set(name)
            return name
        # A result from a cache has a maker, too.
        self._note_maker(operation)
        return f"remote: {', '.join(makers)}"

    def _note_maker(self, operation: Operation) -> None:
        models = dict.fromkeys(node.model for node in self._pool.nodes if node.offers(operation) and node.model)
        self._maker.set(f"remote: {', '.join(models)}" if models else "remote")


class RemoteDetector(_Remote[Detector]):
    """Finds the objects that a text names, on a server."""

    operation = "detect"

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Sequence[Detection]:
        """Return the objects that match, best first; see `Detector`."""
        thresholds = {"box_threshold": box_threshold, "text_threshold": text_threshold}

        def build() -> Call:
            return Call("detect", prompt, encode_image(image), image.size, fields=thresholds)

        def read(content: bytes) -> Sequence[Detection]:
            return read_detections(content, image.size)

        return await self._ask(build, read, lambda engine: engine.detect(image, prompt, **thresholds))


class RemoteInpainter(_Remote[Inpainter]):
    """Repaints the masked part of an image, on a server."""

    operation = "inpaint"

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """Return the image with the masked part repainted; see `Inpainter`. Changes elsewhere are undone."""
        grey = mask.convert("L")

        def build() -> Call:
            return Call("inpaint", prompt, encode_image(image), image.size, grey, given_params(params))

        def read(content: bytes) -> Image.Image:
            painted = on_white(_resized(read_image(content), image.size)).convert(image.mode)
            if image.mode == "RGBA":
                painted.putalpha(image.getchannel("A"))
            return Image.composite(painted, image, grey.point(lambda value: 255 if value else 0))

        return await self._ask(build, read, lambda engine: engine.inpaint(image, mask, prompt, params))


class RemoteEditor(_Remote[Editor]):
    """Edits a whole image, on a server.

    Attributes:
        max_images: images of a call at most; a server may take fewer, and says so.
    """

    operation = "edit"
    max_images = MOST_IMAGES

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """Return the edited image, same size; see `Editor`."""

        def build() -> Call:
            return Call("edit", instruction, encode_image(image), image.size, fields=given_params(params))

        def read(content: bytes) -> Image.Image:
            return _resized(read_image(content), image.size)

        return await self._ask(build, read, lambda engine: engine.edit(image, instruction, params))

    async def edit_images(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        """Return the first image edited, same size, with the others as references; see `MultiImageEditor`."""

        def build() -> Call:
            first, *references = [encode_image(image) for image in images]
            fields = given_params(params)
            return Call("edit_images", instruction, first, images[0].size, fields=fields, references=tuple(references))

        def read(content: bytes) -> Image.Image:
            return _resized(read_image(content), images[0].size)

        async def here(engine: Editor) -> Image.Image:
            if not isinstance(engine, MultiImageEditor):
                raise EngineUnavailable(
                    "needs an image server with a model that takes several images, such as Qwen-Image-Edit-2509: none "
                    "of these has one; give one image, or paste a part of one image into another"
                )
            return await edit_images(engine, images, instruction, params)

        return await self._ask(build, read, here, len(images))

    def _operation(self, images: int) -> Operation:
        return "edit" if images == 1 else "edit_images"


@dataclass(frozen=True)
class RemoteEngines(Engines):
    """Engines of one pool.

    Attributes:
        pool: the servers behind them.
    """

    pool: NodePool

    def get_statistics(self) -> PoolStatistics:
        """Return the statistics of the servers."""
        return self.pool.get_statistics()

    def print_statistics(self) -> None:
        """Print the statistics as a table on the console."""
        self.pool.print_statistics()

    async def close(self) -> None:
        """Close the connections to the servers."""
        await self.pool.close()


def remote_engines(
    nodes: NodeSpecs,
    *,
    max_requests_per_minute: int | None = None,
    timeout: float = 600.0,
    otherwise: Engines | None = None,
    settings: PoolSettings | None = None,
) -> RemoteEngines:
    """Return a detector, an inpainter and an editor on a pool of image servers.

    Args:
        nodes: servers, as `agentfly.vision.remote.settings.read_nodes` takes them: `"localhost:8000"`, or `NodeConfig`
            where a key, a model or the kind of server must be given.
        max_requests_per_minute: requests in any minute at most, over all servers.
        timeout: seconds for a call, waiting included; then it ends with `ToolOutage`.
        otherwise: engines for operations that no server offers; the embedded ones by default. A cache in front of
            them (see `agentfly.vision.cached_engines`) is moved in front of the servers, and keeps their results, too.
        settings: how servers are treated.

    Raises:
        ConfigError: there are no nodes, or one of no known form.
    """
    pool = NodePool(
        read_nodes(nodes),
        max_requests_per_minute=max_requests_per_minute,
        timeout=timeout,
        settings=settings,
    )
    if otherwise is not None:
        return move_cache(otherwise, lambda bare: _on_pool(pool, lambda: bare))

    @cache
    def embedded() -> Engines:
        from agentfly.vision.classical import classical_engines

        return classical_engines()

    return _on_pool(pool, embedded)


def _on_pool(pool: NodePool, otherwise: Callable[[], Engines]) -> RemoteEngines:
    return RemoteEngines(
        RemoteDetector(pool, lambda: otherwise().detector),
        RemoteInpainter(pool, lambda: otherwise().inpainter),
        RemoteEditor(pool, lambda: otherwise().editor),
        pool,
        draws_boxes=True,
    )


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
