"""The endpoints of the image server: OpenAI's image endpoints, detection, and status for operators.

An endpoint reads a request, queues its work, and waits for whichever comes first: the result, the deadline, or the
client hanging up. It never does anything heavy itself.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from agentfly import __version__
from agentfly.serving.image_server.errors import DeadlineExceeded, RequestError, RequestRefused
from agentfly.serving.image_server.http.body import Body, read_body
from agentfly.serving.image_server.http.fields import (
    DetectionFields,
    EditFields,
    GenerationFields,
    read_fields,
    read_size,
)
from agentfly.serving.image_server.http.images import Coder
from agentfly.serving.image_server.metrics import exposition
from agentfly.serving.image_server.settings import ServerSettings
from agentfly.serving.image_server.workers.dispatcher import Dispatcher
from agentfly.serving.image_server.workers.messages import Operation, Outcome, Work
from agentfly.vision.base import Detection
from agentfly.vision.factory import version_of

_DEFAULT_SIDE = 1024


class ImageServer:
    """The endpoints, around one dispatcher."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.dispatcher = Dispatcher(settings)
        self._coder = Coder(settings.limits)
        self._started = int(time.time())
        self._version = version_of(settings.engine_options())
        self._metrics = exposition(self.dispatcher)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Workers live as long as the application."""
        self.dispatcher.start()
        try:
            yield
        finally:
            await self.dispatcher.stop()
            self._coder.close()

    async def edits(self, request: Request) -> Response:
        """Edit an image by instruction, or repaint what a mask covers."""
        return await self._answer(request, Operation.edit, self._edit)

    async def upload(self, request: Request) -> Response:
        """Edit an uploaded image; replies as the JSON body does: `{"image": base64}`."""
        return await self._answer(request, Operation.edit, lambda request: self._edit(request, bare=True))

    async def generations(self, request: Request) -> Response:
        """Make images from text."""
        return await self._answer(request, Operation.generate, self._generate)

    async def detections(self, request: Request) -> Response:
        """Find what a text names."""
        return await self._answer(request, Operation.detect, self._detect)

    async def root(self) -> dict[str, Any]:
        """What this is."""
        return {"name": "agentfly image server", "version": __version__, "docs": "/docs", "health": "/health"}

    async def health(self) -> JSONResponse:
        """200 when a worker can take work, else 503."""
        ready = self.dispatcher.ready
        workers = [worker.state for worker in self.dispatcher.workers]
        return JSONResponse({"status": "ready" if ready else "starting", "workers": workers}, 200 if ready else 503)

    async def models(self) -> dict[str, Any]:
        """The model and what it can do."""
        dispatcher = self.dispatcher
        model = {
            "id": self.settings.model_path or self.settings.model_type,
            "object": "model",
            "created": self._started,
            "owned_by": "agentfly",
            "engine": dispatcher.engine,
            "version": self._version,
            "capabilities": sorted(operation.value for operation in dispatcher.operations),
        }
        return {"object": "list", "data": [model] if dispatcher.engine else []}

    async def gpu_status(self) -> dict[str, Any]:
        """State, load and memory of every worker."""
        workers = [
            {
                "worker": worker.index,
                "device": f"cuda:{worker.gpu}" if worker.gpu is not None else self.settings.device,
                "pid": worker.process.pid if worker.process else None,
                "state": worker.state,
                "running": len(worker.jobs),
                "finished": worker.finished,
                "restarts": worker.restarts,
                "memory_bytes": dataclasses.asdict(worker.memory) if worker.memory else None,
            }
            for worker in self.dispatcher.workers
        ]
        return {"waiting": self.dispatcher.waiting, "max_queue": self.settings.max_queue, "workers": workers}

    async def metrics(self) -> Response:
        """Prometheus text."""
        return Response(self._metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _answer(
        self,
        request: Request,
        operation: Operation,
        work: Callable[[Request], Coroutine[Any, Any, dict[str, Any]]],
    ) -> Response:
        """Run one request and count it. A client that hangs up cancels `work`."""
        started, status = time.monotonic(), 499
        request.state.started, request.state.operation = started, operation
        try:
            content = await work(request)
            status = 200
            return JSONResponse(content)
        except RequestError as fault:
            status = fault.status
            raise
        except Exception:
            status = 500
            raise
        finally:
            done: Operation = request.state.operation
            self.dispatcher.counters.requests[done.value, status] += 1
            if status == 200:
                self.dispatcher.counters.request_seconds.observe(done, time.monotonic() - started)

    async def _read(self, request: Request) -> Body:
        """The body of a request, if its work would find room."""
        self.dispatcher.check_room()
        try:
            async with asyncio.timeout(self._left(request, None)):
                return await read_body(request, self.settings.limits)
        except TimeoutError as fault:
            raise DeadlineExceeded("the deadline of this request passed before its body was here") from fault
        except ClientDisconnect as fault:
            raise RequestError("the client hung up", status=499) from fault

    def _left(self, request: Request, timeout: float | None) -> float:
        """Seconds until the deadline, which counts from when the request came."""
        limit = self.settings.request_timeout
        return max(0.0, min(timeout or limit, limit) - (time.monotonic() - request.state.started))

    async def _edit(self, request: Request, bare: bool = False) -> dict[str, Any]:
        body = await self._read(request)
        fields = read_fields(EditFields, body.fields, self.settings.limits)
        # An empty prompt removes what a mask covers; without a mask it says nothing.
        if not fields.prompt and body.mask is None:
            raise RequestRefused("prompt is needed", param="prompt")
        if fields.strength is not None and body.mask is None:
            raise RequestRefused("strength is for inpainting: send a mask with it", param="strength")
        operation = Operation.edit if body.mask is None else Operation.inpaint
        request.state.operation = operation
        self._check_offer(operation)
        if not body.images:
            raise RequestRefused("image is needed", param="image")
        images = await self._coder.decode(body.images)
        mask = None if body.mask is None else await self._coder.decode_mask(body.mask, images[0].size)
        work = Work(operation, fields.prompt, tuple(images), mask, strength=fields.strength, **_common(fields))
        size = read_size(fields.size, self.settings.limits)
        return await self._make(request, work, fields, size, bare=bare or body.is_json)

    async def _generate(self, request: Request) -> dict[str, Any]:
        body = await self._read(request)
        fields = read_fields(GenerationFields, body.fields, self.settings.limits)
        self._check_offer(Operation.generate)
        if not fields.prompt:
            raise RequestRefused("prompt is needed", param="prompt")
        if body.images or body.mask is not None:
            raise RequestRefused("generations take no images: use /v1/images/edits", param="image")
        side = min(_DEFAULT_SIDE, self.settings.limits.output_side)
        size = read_size(fields.size, self.settings.limits)
        width, height = size or (side, side)
        work = Work(Operation.generate, fields.prompt, width=width, height=height, **_common(fields))
        return await self._make(request, work, fields, size)

    async def _detect(self, request: Request) -> dict[str, Any]:
        body = await self._read(request)
        fields = read_fields(DetectionFields, body.fields, self.settings.limits)
        self._check_offer(Operation.detect)
        if not fields.prompt or not body.images:
            name = "image" if fields.prompt else "prompt"
            raise RequestRefused(f"{name} is needed", param=name)
        images = await self._coder.decode(body.images[:2])
        work = Work(
            Operation.detect,
            fields.prompt,
            tuple(images),
            box_threshold=fields.box_threshold,
            text_threshold=fields.text_threshold,
        )
        (outcome,) = await self._finish(request, [work], fields.timeout)
        found = [await self._object(detection, fields.masks) for detection in outcome.detections]
        return {
            "created": int(time.time()),
            "engine": self.dispatcher.engine,
            "data": found,
            "best_rejected": outcome.best_rejected,
        }

    async def _object(self, detection: Detection, mask: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"label": detection.label, "score": detection.score, "box": list(detection.box)}
        return {**found, "mask": await self._coder.encode(detection.mask)} if mask else found

    async def _make(
        self,
        request: Request,
        work: Work,
        fields: EditFields | GenerationFields,
        size: tuple[int, int] | None,
        *,
        bare: bool = False,
    ) -> dict[str, Any]:
        """The reply with the images; a `bare` one has its single image as `image`."""
        first = secrets.randbelow(2**32) if fields.seed is None else fields.seed
        seeds = [(first + index) % 2**32 for index in range(fields.n)]
        works = [dataclasses.replace(work, seed=seed) for seed in seeds]
        outcomes = await self._finish(request, works, fields.timeout)
        images = [outcome.image for outcome in outcomes if outcome.image is not None]
        texts = await asyncio.gather(*(self._coder.encode(image, fields.output_format, size) for image in images))
        reply: dict[str, Any] = {
            "created": int(time.time()),
            "engine": self.dispatcher.engine,
            "output_format": fields.output_format,
        }
        if bare and len(texts) == 1:
            return {**reply, "image": texts[0], "seed": first}
        return {**reply, "data": [{"b64_json": text, "seed": seed} for text, seed in zip(texts, seeds, strict=True)]}

    async def _finish(self, request: Request, works: Sequence[Work], timeout: float | None) -> list[Outcome]:
        """Outcomes of all works; all are dropped when one fails or the client hangs up."""
        jobs = self.dispatcher.submit(works, self._left(request, timeout))
        gone: asyncio.Future[Any] = asyncio.create_task(_hung_up(request))
        pending: set[asyncio.Future[Any]] = {job.future for job in jobs}
        try:
            while pending:
                done, _ = await asyncio.wait({*pending, gone}, return_when=asyncio.FIRST_COMPLETED)
                for future in done - {gone}:
                    future.result()
                pending -= done
                if gone in done and pending:
                    raise RequestError("the client hung up", status=499)
            return [job.future.result() for job in jobs]
        finally:
            gone.cancel()
            for job in jobs:
                self.dispatcher.cancel(job)

    def _check_offer(self, operation: Operation) -> None:
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


def _common(fields: EditFields | GenerationFields) -> dict[str, Any]:
    names = ("negative_prompt", "guidance_scale", "true_cfg_scale", "num_inference_steps")
    return {name: getattr(fields, name) for name in names}


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
