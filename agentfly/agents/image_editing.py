"""The agent that edits images with detect, inpaint, auto-inpaint and edit tools."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from PIL import Image
from typing_extensions import Unpack

from agentfly.agents.agent import Agent, AgentArguments
from agentfly.errors import ConfigError, ImageError
from agentfly.images import ImageSource, ImageView, load_image, save_image
from agentfly.messages import ToolCall
from agentfly.tools import ImageTools, ToolResult, Toolset
from agentfly.vision import Engines

if TYPE_CHECKING:
    from agentfly.vision.remote import RemoteEngines
    from agentfly.vision.remote.settings import NodeSpecs

SYSTEM_PROMPT = (
    "You edit pictures with tools. Every picture has an id, written before it; tools take ids and return new pictures. "
    "Look at each result. When the picture is as the user wants it, call give_answer with its id."
)

P = ParamSpec("P")
Result = Awaitable[ToolResult]
# Arguments that name an image, and the kind of name that an image gets when the agent first meets it.
_IMAGES = {"image_id": "img", "mask_id": "mask", "final_image_id": "img"}


def _direct(
    method: Callable[Concatenate[ImageTools, P], Result],
) -> Callable[Concatenate[ImageEditingAgent, P], Result]:
    """Return a tool as a method of the agent, with the arguments and checks of the model, on the agent's own images."""
    signature = inspect.signature(method)

    # The mark of `@tool` stays behind: the tools that a model sees belong to a chain.
    @functools.wraps(method, updated=())
    async def call(agent: ImageEditingAgent, /, *args: P.args, **kwargs: P.kwargs) -> ToolResult:
        known = {name: value for name, value in kwargs.items() if name in signature.parameters}
        given = signature.bind_partial(None, *args, **known).arguments
        del given["self"]
        return await agent._call_tool(method.__name__, {**kwargs, **given})

    call.__name__ = f"{method.__name__}_tool"
    return call


class ImageEditingAgent(Agent):
    """Edit images as the user asks, by calling tools over several turns.

    The tools can be awaited directly too, such as `detect_objects_tool(image_id=…, text_prompt=…)`. They take the
    ids that `_store_image` and earlier results (`ToolResult.ids`) gave, or handles of a trajectory, and check their
    arguments as they do for the model. A refusal is a `ToolError`.

    Args:
        model_name_or_path: checkpoint folder, hub name, or the model name of an endpoint.
        engines: the engines behind the tools: an `Engines`, or what `agentfly.vision.factory.make_engines` takes, such
            as a name; the embedded OpenCV engines by default.
        client_nodes: image servers as `"host:port"`, `(host, port)`, a mapping of the fields of `NodeConfig`, or a
            `NodeConfig`; what they do not offer is done by `engines`.
        max_requests_per_minute: to the image servers together; None is no limit.
        timeout: seconds for one call of an image server, waiting included; 600 by default.
        arguments: see `AgentArguments`.

    Raises:
        ConfigError: an argument is unknown or wrong; the message names the nearest valid one.
    """

    default_system_prompt = SYSTEM_PROMPT

    def __init__(
        self,
        model_name_or_path: str,
        *,
        engines: Engines | str | Mapping[str, Any] | None = None,
        client_nodes: NodeSpecs | None = None,
        max_requests_per_minute: int | None = None,
        timeout: float | None = None,
        **arguments: Unpack[AgentArguments],
    ) -> None:
        super().__init__(model_name_or_path, **arguments)
        self._remote = _remote(client_nodes, max_requests_per_minute, timeout, engines)
        self.engines: Engines = self._remote or _local(engines)

    def toolset(self, view: ImageView) -> Toolset:
        """Return the four image tools and `give_answer`, on the images of `view`."""
        return Toolset.of(ImageTools(view, self.engines))

    detect_objects_tool = _direct(ImageTools.detect_objects)
    inpaint_image_tool = _direct(ImageTools.inpaint_image)
    auto_inpaint_image_tool = _direct(ImageTools.auto_inpaint_image)
    qwen_edit_image_tool = _direct(ImageTools.qwen_edit_image)
    qwen_image_edit_tool = qwen_edit_image_tool
    give_answer_tool = _direct(ImageTools.give_answer)

    async def close(self) -> None:
        """Free the backend, and the connections to the image servers."""
        try:
            await super().close()
        finally:
            if self._remote is not None:
                await self._remote.close()

    async def _call_tool(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        for argument, kind in _IMAGES.items():
            handle = arguments.get(argument)
            if isinstance(handle, str) and handle in self.store:
                self.images.add_handle(handle, kind)
        # Made afresh: a `@tool` method of a subclass works on a copy of the agent that has the images of its chain.
        tools = Toolset.of(ImageTools(self.images, self.engines))
        result = await tools.execute(ToolCall("direct", name, arguments))
        return replace(result, ids=tuple(self.images.name(handle) for handle in result.images))

    def _store_image(self, image: ImageSource) -> str:
        """Keep an image, in any form that `load_image` takes, and return the id by which this agent knows it."""
        return self.images.add(load_image(image, self.settings.image_limits))

    def _get_image(self, image_id: str) -> Image.Image:
        """Return a copy of the image of an id that this agent gave, or of a handle from a trajectory.

        Raises:
            ImageError: neither; the message lists the ids.
        """
        if image_id in self.store:
            return self.store.get(image_id)
        try:
            return self.images.get(image_id)
        except ImageError as fault:
            raise ImageError(
                f"{fault}. Images of a run go by their handles: result[0].final_image, result[0].names['img_2']"
            ) from None

    def save_image(self, image_id: str, path: str | Path) -> Path:
        """Write an image to a .png, .jpg or .webp file and return its path; the parent folder is made.

        Raises:
            ImageError: unknown id or suffix, or the file cannot be written.
        """
        return save_image(self._get_image(image_id), path)


def _remote(
    nodes: NodeSpecs | None,
    max_requests_per_minute: int | None,
    timeout: float | None,
    otherwise: Engines | str | Mapping[str, Any] | None,
) -> RemoteEngines | None:
    if nodes:
        from agentfly.vision.remote import remote_engines

        return remote_engines(
            nodes,
            max_requests_per_minute=max_requests_per_minute,
            timeout=600.0 if timeout is None else timeout,
            otherwise=None if otherwise is None else _local(otherwise),
        )
    if max_requests_per_minute is not None or timeout is not None:
        raise ConfigError(
            "max_requests_per_minute and timeout are for image servers: name them with client_nodes=['host:port', …]; "
            "the model's endpoint has settings of its own, backend_config=ClientConfig(timeout=…)"
        )
    return None


def _local(spec: Engines | str | Mapping[str, Any] | None) -> Engines:
    if isinstance(spec, Engines):
        return spec
    if spec is None:
        # OpenCV is loaded with the first agent, not with the package.
        from agentfly.vision.classical import classical_engines

        return classical_engines()
    from agentfly.vision.factory import make_engines

    return make_engines(spec)
