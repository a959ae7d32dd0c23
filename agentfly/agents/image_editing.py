"""The agent that edits pictures with detect, inpaint, auto-inpaint and edit tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from agentfly.agents.agent import Agent, AgentSettings
from agentfly.agents.llm_backends import LLMBackend
from agentfly.errors import ConfigError
from agentfly.images import ImageStore, ImageView
from agentfly.tools import ImageTools, ToolResult, Toolset
from agentfly.vision import Engines

SYSTEM_PROMPT = (
    "You edit pictures with tools. Every picture has an id, written before it; tools take ids and return new pictures. "
    "Look at each result. When the picture is as the user wants it, call give_answer with its id."
)


class ImageEditingAgent(Agent):
    """Edits pictures as the user's words say, by calling tools over several turns.

    Args:
        model_name_or_path, template, backend, backend_config, streaming, store, settings: see `Agent`.
        engines: what works behind the tools; the embedded OpenCV engines by default.
        client_nodes: image servers as `(host, port)`.
    """

    default_system_prompt = SYSTEM_PROMPT

    def __init__(
        self,
        model_name_or_path: str,
        *,
        template: str | None = None,
        backend: str | LLMBackend = "async_vllm",
        backend_config: Any = None,
        streaming: Literal["console"] | None = None,
        store: ImageStore | None = None,
        settings: AgentSettings | None = None,
        engines: Engines | None = None,
        client_nodes: Sequence[tuple[str, int]] | None = None,
    ) -> None:
        if client_nodes:
            raise ConfigError("client_nodes: remote image servers are not built yet; pass engines=… or leave it out")
        super().__init__(
            model_name_or_path,
            template=template,
            backend=backend,
            backend_config=backend_config,
            streaming=streaming,
            store=store,
            settings=settings,
        )
        self.engines = engines or _embedded()
        self._tools = ImageTools(self.images, self.engines)

    def toolset(self, view: ImageView) -> Toolset:
        """The four image tools and `give_answer`, on the pictures of `view`."""
        return Toolset.of(ImageTools(view, self.engines))

    async def detect_objects_tool(self, image_id: str, text_prompt: str, **parameters: Any) -> ToolResult:
        """Find what a text names; see `ImageTools.detect_objects`."""
        return await self._tools.detect_objects(image_id, text_prompt, **parameters)

    async def inpaint_image_tool(self, image_id: str, mask_id: str, prompt: str, **parameters: Any) -> ToolResult:
        """Repaint what a mask covers; see `ImageTools.inpaint_image`."""
        return await self._tools.inpaint_image(image_id, mask_id, prompt, **parameters)

    async def auto_inpaint_image_tool(
        self, image_id: str, detect_prompt: str, prompt: str, **parameters: Any
    ) -> ToolResult:
        """Find and repaint in one call; see `ImageTools.auto_inpaint_image`."""
        return await self._tools.auto_inpaint_image(image_id, detect_prompt, prompt, **parameters)

    async def qwen_edit_image_tool(self, image_id: str, prompt: str, **parameters: Any) -> ToolResult:
        """Edit the whole picture by instruction; see `ImageTools.qwen_edit_image`."""
        return await self._tools.qwen_edit_image(image_id, prompt, **parameters)

    def _store_image(self, image: Image.Image) -> str:
        """Keep a picture and return the id by which the tools of this agent take it."""
        return self.images.add(image)

    def _get_image(self, image_id: str) -> Image.Image:
        """The picture of an id that this agent gave, or of a handle from a trajectory."""
        return self.store.get(image_id) if image_id in self.store else self.images.get(image_id)

    def save_image(self, image_id: str, path: str | Path) -> Path:
        """Write a picture to a file whose suffix names the format."""
        image, path = self._get_image(image_id), Path(path)
        if image.mode == "RGBA" and path.suffix.lower() in (".jpg", ".jpeg"):
            image = image.convert("RGB")
        image.save(path)
        return path


def _embedded() -> Engines:
    # OpenCV is loaded with the first agent, not with the package.
    from agentfly.vision.classical import classical_engines

    return classical_engines()
