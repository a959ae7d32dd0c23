"""Engines for `--model-type custom` that do what real ones only do by accident: sleep, hang, crash, fail."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from PIL import Image, ImageOps

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.serving.image_server import EngineOptions, Operation, Outcome, Work
from agentfly.vision.base import Detection


class Puppet:
    """Does what the prompt says; anything else inverts the image, or finds all of it under the prompt's name.

    Prompts: `sleep S`; `hang S` blocks a thread that cannot be cancelled; `die` ends the process; `die once FILE` does
    so the first time only; `refuse`, `unavailable` and `break` raise.
    """

    name = "puppet"
    operations = frozenset(Operation)

    async def run(self, work: Work) -> Outcome:
        verb, _, rest = work.prompt.partition(" ")
        if verb == "sleep":
            await asyncio.sleep(float(rest))
        elif verb == "hang":
            await asyncio.to_thread(time.sleep, float(rest))
        elif verb == "die":
            _die(rest)
        elif verb == "refuse":
            raise ToolError("this cannot be done: try another prompt")
        elif verb == "unavailable":
            raise EngineUnavailable("needs a model backend")
        elif verb == "break":
            raise RuntimeError("/secret/path leaked")
        if work.operation is Operation.detect:
            box = (0, 0, *work.images[0].size)
            return Outcome(detections=(Detection(work.prompt, 1.0, box, Image.new("L", box[2:], 255)),))
        if work.operation is Operation.generate:
            return Outcome(Image.new("RGB", (work.width or 8, work.height or 8), (0, 0, (work.seed or 0) % 256)))
        return Outcome(ImageOps.invert(work.images[0].convert("RGB")))


def _die(rest: str) -> None:
    _, _, file = rest.partition(" ")
    if file:
        if Path(file).exists():
            return
        Path(file).touch()
    os.kill(os.getpid(), signal.SIGKILL)


class EditingPuppet(Puppet):
    """One that only edits."""

    operations = frozenset((Operation.edit,))


class BandingPuppet(EditingPuppet):
    """One that edits with references: a band of the first image's size for each image, in its first colour."""

    max_images = 4

    async def run(self, work: Work) -> Outcome:
        first, count = work.images[0], len(work.images)
        result = Image.new("RGB", first.size)
        for index, image in enumerate(work.images):
            corners = (first.width * index // count, 0, first.width * (index + 1) // count, first.height)
            result.paste(image.convert("RGB").crop((0, 0, 1, 1)).resize(first.size).crop(corners), corners)
        return Outcome(result)


def bands(options: EngineOptions) -> Puppet:
    """For `--model-path tests.unit.serving.image_server.custom_engines:bands`."""
    return BandingPuppet()


def editor(options: EngineOptions) -> Puppet:
    """For `--model-path tests.unit.serving.image_server.custom_engines:editor`."""
    return EditingPuppet()


def puppet(options: EngineOptions) -> Puppet:
    """For `--model-path tests.unit.serving.image_server.custom_engines:puppet`."""
    return Puppet()


def broken(options: EngineOptions) -> Puppet:
    """An engine that cannot be loaded."""
    raise ValueError("no weights here")
