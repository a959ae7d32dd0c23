"""The image tools on engines that take their time: a twin of an image model on a GPU, for machines without one.

    agentfly train RECIPE "agentfly.agent={agent: 'slow_tools:SlowEditing', seconds: 5}"

Calls that paint (inpaint, edit) wait before the classical engine does the work; detection costs little on a GPU, and
does not. Without `at_once` any number of calls wait side by side, as on a pool of image servers that is large enough.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from PIL import Image

from agentfly.agents import ImageEditingAgent
from agentfly.vision.base import Editor, EditParams, Inpainter, InpaintParams


class Wait:
    """The time of a call.

    Args:
        seconds: of each call.
        at_once: calls that wait at the same time; the others wait for their turn. None is no limit.
    """

    def __init__(self, seconds: float, at_once: int | None = None) -> None:
        self._seconds = seconds
        self._turn = contextlib.nullcontext() if at_once is None else asyncio.Semaphore(at_once)

    async def over(self) -> None:
        """Return after it."""
        async with self._turn:
            await asyncio.sleep(self._seconds)


class SlowInpainter:
    """An inpainter after a wait; see `Inpainter`."""

    def __init__(self, inpainter: Inpainter, wait: Wait) -> None:
        self._inpainter, self._wait = inpainter, wait
        self.name = inpainter.name

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """Wait, and return what the inpainter makes."""
        await self._wait.over()
        return await self._inpainter.inpaint(image, mask, prompt, params)


class SlowEditor:
    """An editor after a wait; see `Editor`."""

    def __init__(self, editor: Editor, wait: Wait) -> None:
        self._editor, self._wait = editor, wait
        self.name = editor.name

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """Wait, and return what the editor makes."""
        await self._wait.over()
        return await self._editor.edit(image, instruction, params)


class SlowEditing(ImageEditingAgent):
    """The image-editing agent with slow engines.

    Args:
        model_name_or_path: see `ImageEditingAgent`.
        seconds: of each painting call.
        at_once: see `Wait`.
        arguments: see `ImageEditingAgent`.
    """

    def __init__(
        self, model_name_or_path: str, *, seconds: float = 0.0, at_once: int | None = None, **arguments: Any
    ) -> None:
        super().__init__(model_name_or_path, **arguments)
        wait, engines = Wait(seconds, at_once), self.engines
        self.engines = replace(
            engines, inpainter=SlowInpainter(engines.inpainter, wait), editor=SlowEditor(engines.editor, wait)
        )
