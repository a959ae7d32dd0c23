"""The endpoints of the image server: OpenAI's image endpoints, detection, and status for operators.

An endpoint reads a request, queues its work, and waits for the first of these: the result, the deadline, the client
hanging up. It never does anything heavy itself.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace

from fastapi import FastAPI, Request, Response
from PIL import Image
from starlette.requests import ClientDisconnect

from agentfly import __version__
from agentfly.serving.errors import AsciiJSON, DeadlineExceeded, RequestError, RequestRefused
from agentfly.serving.image_server.http.body import (
    Body,
    DetectionFields,
    EditFields,
    GenerationFields,
    ResultFields,
    read_body,
    read_fields,
    read_size,
)
from agentfly.serving.image_server.http.images import Coder
from agentfly.serving.image_server.settings import ServerSettings
from agentfly.serving.image_server.workers.dispatcher import Dispatcher
from agentfly.serving.image_server.workers.messages import Operation, Outcome, Work
from agentfly.serving.request_data import HeldMemory
from agentfly.vision.factory import version_of

_DEFAULT_SIDE = 1024

Reply = dict[str, object]


@dataclass
class _Call:
    """A request of work, the monotonic time of its arrival, and the operation that it is counted as."""

    request: Request
    operation: Operation
    started: float


class ImageServer:
    """The endpoints, around one dispatcher."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.dispatcher = Dispatcher(settings)
        self._coder = Coder(settings.limits)
        self._started = int(time.time())
        self._version = version_of(settings.engine_options())

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Keep the workers while the application lives."""
        self.dispatcher.start()
        try:
            yield
        finally:
            await self.dispatcher.stop()
            self._coder.close()

    async def edits(self, request: Request) -> Response:
        """Edit an image by instruction, or repaint what a mask covers."""
        return await self._edit(request)

    async def upload(self, request: Request) -> Response:
        """Edit an uploaded image; replies as the JSON body does: `{"image": base64}`."""
        return await self._edit(request, bare=True)

    async def _edit(self, request: Request, *, bare: bool = False) -> Response:
        with self._counted(request, Operation.edit) as call:
            body = await self._read(call)
            fields = read_fields(EditFields, body.fields, self.settings.limits)
            # An empty prompt removes what a mask covers; without a mask it says nothing.
            if not fields.prompt and body.mask is None:
                raise RequestRefused("prompt is needed", param="prompt")
            if fields.strength is not None and body.mask is None:
                raise RequestRefused("strength is for inpainting: send a mask with it", param="strength")
            call.operation = Operation.edit if body.mask is None else Operation.inpaint
            self._check_offer(call.operation)
            if not body.images:
                raise RequestRefused("image is needed", param="image")
            images, mask = await self._decode(call, body)
            work = replace(_to_work(call, fields), images=tuple(images), mask=mask, strength=fields.strength)
            size = read_size(fields.size, self.settings.limits)
            return AsciiJSON(await self._make_images(call, work, fields, size, bare=bare or body.is_json))

    async def generations(self, request: Request) -> Response:
        """Make images from text."""
        with self._counted(request, Operation.generate) as call:
            body = await self._read(call)
            fields = read_fields(GenerationFields, body.fields, self.settings.limits)
            self._check_offer(Operation.generate)
            if not fields.prompt:
                raise RequestRefused("prompt is needed", param="prompt")
            if body.images or body.mask is not None:
                raise RequestRefused("generations take no images: use /v1/images/edits", param="image")
            side = min(_DEFAULT_SIDE, self.settings.limits.output_side)
            size = read_size(fields.size, self.settings.limits)
            width, height = size or (side, side)
            work = replace(_to_work(call, fields), width=width, height=height)
            return AsciiJSON(await self._make_images(call, work, fields, size))

    async def detections(self, request: Request) -> Response:
        """Find the objects that a text names."""
        with self._counted(request, Operation.detect) as call:
            body = await self._read(call)
            fields = read_fields(DetectionFields, body.fields, self.settings.limits)
            self._check_offer(Operation.detect)
            if not fields.prompt or not body.images:
                name = "image" if fields.prompt else "prompt"
                raise RequestRefused(f"{name} is needed", param=name)
            body.images = body.images[:2]
            images, _ = await self._decode(call, body)
            work = Work(
                Operation.detect,
                fields.prompt,
                tuple(images),
                box_threshold=fields.box_threshold,
                text_threshold=fields.text_threshold,
            )
            (outcome,) = await self._run(call, [work], fields.timeout)
            found: list[Reply] = []
            for detection in outcome.detections:
                found.append({"label": detection.label, "score": detection.score, "box": list(detection.box)})
                if fields.masks:
                    found[-1]["mask"] = await self._coder.encode(detection.mask)
            reply: Reply = {"created": int(time.time()), "engine": self.dispatcher.engine, "data": found}
            return AsciiJSON({**reply, "best_rejected": outcome.best_rejected})

    async def root(self) -> Reply:
        """Name the server and its pages."""
        return {"name": "agentfly image server", "version": __version__, "docs": "/docs", "health": "/health"}

    async def health(self) -> AsciiJSON:
        """Answer 200 when a worker can take work, else 503."""
        ready = self.dispatcher.ready
        workers = [worker.state for worker in self.dispatcher.workers]
        return AsciiJSON({"status": "ready" if ready else "starting", "workers": workers}, 200 if ready else 503)

    async def models(self) -> Reply:
        """List the model and what it can do."""
        dispatcher = self.dispatcher
        model = {
            "id": self.settings.model_path or self.settings.model_type,
            "object": "model",
            "created": self._started,
            "owned_by": "agentfly",
            "engine": dispatcher.engine,
            "version": self._version,
            "capabilities": sorted(operation.value for operation in dispatcher.operations),
            "max_images": min(dispatcher.max_images, self.settings.limits.images),
            "slots": self.settings.capacity * self.settings.replicas,
        }
        return {"object": "list", "data": [model] if dispatcher.engine else []}

    async def gpu_status(self) -> Reply:
        """Show state, load and memory of every worker."""
        workers = [
            {
                "worker": worker.index,
                "device": f"cuda:{worker.gpu}" if worker.gpu is not None else self.settings.device,
                "pid": worker.process.pid if worker.process else None,
                "state": worker.state,
                "running": len(worker.jobs),
                "finished": worker.finished,
                "restarts": worker.restarts,
                "memory_bytes": asdict(worker.memory) if worker.memory else None,
            }
            for worker in self.dispatcher.workers
        ]
        return {"waiting": self.dispatcher.waiting, "max_queue": self.settings.max_queue, "workers": workers}

    async def metrics(self) -> Response:
        """Show the metrics as Prometheus text."""
        text = self.dispatcher.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @contextmanager
    def _counted(self, request: Request, operation: Operation) -> Iterator[_Call]:
        """Count a request with its status, and its seconds if it succeeds."""
        call = _Call(request, operation, time.monotonic())
        # The call is cancelled when its client hangs up.
        status = 499
        try:
            yield call
            status = 200
        except RequestError as fault:
            status = fault.status
            raise
        except Exception:
            status = 500
            raise
        finally:
            metrics, name = self.dispatcher.metrics, call.operation.value
            metrics.requests.labels(name, status).inc()
            if status == 200:
                metrics.request_seconds.labels(name).observe(time.monotonic() - call.started)

    async def _read(self, call: _Call) -> Body:
        """Return the body of a request, if its work would find room."""
        self.dispatcher.check_room()
        try:
            async with asyncio.timeout(self._seconds_left(call, None)):
                return await read_body(
                    call.request, self.settings.limits, self._coder.in_thread, call.request.state.memory
                )
        except TimeoutError as fault:
            raise DeadlineExceeded("the deadline of this request passed before its body was here") from fault
        except ClientDisconnect as fault:
            raise RequestError("the client hung up", status=499) from fault

    async def _decode(self, call: _Call, body: Body) -> tuple[list[Image.Image], Image.Image | None]:
        """Return the images and the mask of a body, and forget the files that they came in."""
        held: HeldMemory = call.request.state.memory
        files = held.size
        images = await self._coder.decode(body.images, held)
        mask = None if body.mask is None else await self._coder.decode_mask(body.mask, held, images[0].size)
        body.images, body.mask = [], None
        held.take(-files)
        return images, mask

    def _seconds_left(self, call: _Call, timeout: float | None) -> float:
        """Return the seconds until the deadline, which counts from the arrival of the request."""
        limit = self.settings.request_timeout
        return max(0.0, min(timeout or limit, limit) - (time.monotonic() - call.started))

    async def _make_images(
        self, call: _Call, work: Work, fields: ResultFields, size: tuple[int, int] | None, *, bare: bool = False
    ) -> Reply:
        """Run `work` once for each seed and return the reply; a `bare` one has its single image as `image`."""
        first = secrets.randbelow(2**32) if fields.seed is None else fields.seed
        seeds = [(first + index) % 2**32 for index in range(fields.n)]
        outcomes = await self._run(call, [replace(work, seed=seed) for seed in seeds], fields.timeout)
        images = [outcome.image for outcome in outcomes if outcome.image is not None]
        texts = await asyncio.gather(*(self._coder.encode(image, fields.output_format, size) for image in images))
        reply: Reply = {
            "created": int(time.time()),
            "engine": self.dispatcher.engine,
            "output_format": fields.output_format,
        }
        if bare and len(texts) == 1:
            return {**reply, "image": texts[0], "seed": first}
        return {**reply, "data": [{"b64_json": text, "seed": seed} for text, seed in zip(texts, seeds, strict=True)]}

    async def _run(self, call: _Call, works: Sequence[Work], timeout: float | None) -> list[Outcome]:
        """Return the outcomes of all works; all are dropped when one fails or the client hangs up."""
        jobs = self.dispatcher.submit(works, self._seconds_left(call, timeout))

        async def wait_for_disconnect() -> None:
            while (await call.request.receive())["type"] != "http.disconnect":
                pass

        hung_up: asyncio.Future[None] = asyncio.create_task(wait_for_disconnect())
        pending: set[asyncio.Future[Outcome]] = {job.future for job in jobs}
        try:
            while pending:
                waiting: set[asyncio.Future[Outcome] | asyncio.Future[None]] = {*pending, hung_up}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in [future for future in pending if future.done()]:
                    future.result()
                    pending.remove(future)
                if hung_up.done() and pending:
                    raise RequestError("the client hung up", status=499)
            return [job.future.result() for job in jobs]
        finally:
            hung_up.cancel()
            for job in jobs:
                self.dispatcher.cancel(job)

    def _check_offer(self, operation: Operation) -> None:
        """Raise `RequestRefused` if the engine is known and does not offer the operation."""
        offered = self.dispatcher.operations
        if offered and operation not in offered:
            names = ", ".join(sorted(other.value for other in offered))
            hint = {Operation.edit: " (send a mask to inpaint)", Operation.inpaint: " (leave the mask out to edit)"}
            other = {Operation.edit: Operation.inpaint, Operation.inpaint: Operation.edit}.get(operation)
            raise RequestRefused(
                f"this server's model does not {operation.value}; it can: {names}"
                + (hint[operation] if other in offered else ""),
                code="operation_not_offered",
            )


def _to_work(call: _Call, fields: ResultFields) -> Work:
    return Work(
        call.operation,
        fields.prompt,
        negative_prompt=fields.negative_prompt,
        guidance_scale=fields.guidance_scale,
        true_cfg_scale=fields.true_cfg_scale,
        num_inference_steps=fields.num_inference_steps,
    )
