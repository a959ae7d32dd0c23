"""Images by an editor of `agentfly.vision`: the prompt is an instruction on the image to start from."""

from __future__ import annotations

from agentfly.errors import ToolError
from agentfly.systems.generators.base import GeneratedImage, ImageRequest
from agentfly.vision.base import Editor, EditParams


class EditingGenerator:
    """A generator that edits the first image to start from.

    Args:
        editor: carries out the instructions; `close` leaves it open, since others may use it.
    """

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    @property
    def name(self) -> str:
        """The name of the editor."""
        return self._editor.name

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Edit an image; see `ImageGenerator`."""
        if not request.starts:
            raise ToolError("an image editor needs an image to edit, and the request has none")
        params = EditParams(request.negative_prompt or None, seed=request.seed)
        return GeneratedImage(await self._editor.edit(request.starts[0], request.prompt, params))

    async def close(self) -> None:
        """Do nothing: the editor belongs to the caller."""
