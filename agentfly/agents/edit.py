"""`agentfly edit`: take one image and one instruction, write one edited image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.text import Text

from agentfly.agents.agent import Agent
from agentfly.agents.chain import AgentSettings, RolloutLimits
from agentfly.agents.display.console import show_styled
from agentfly.agents.display.strip import check_steps_path, steps, write_steps
from agentfly.agents.factory import make_agent, prompt_of
from agentfly.agents.llm_backends import AsyncVLLMConfig, SamplingParams
from agentfly.agents.llm_backends.endpoint import KEY_VARIABLE, endpoint_config, served_model
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.spec import AgentSpec, Named
from agentfly.agents.trajectory import Trajectory
from agentfly.errors import AgentFlyError, ConfigError, printable, shortened
from agentfly.images import ImageStore, file_format, save_image
from agentfly.model_source import require_policy
from agentfly.tools import ImageTools
from agentfly.vision.factory import check_keys
from agentfly.vision.remote.preflight import require_nodes
from agentfly.vision.remote.settings import NodeConfig


class UnchangedError(AgentFlyError):
    """The edited image is the same as the given one."""


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """The options of commands that edit images with a policy.

    Attributes:
        model: checkpoint, or model name of the endpoint; None is the policy of the quickstart, or the only model that
            the endpoint serves.
        base_url: endpoint; None runs vLLM in this process.
        api_key_env: environment variable with the endpoint's key.
        template: chat template; None takes the checkpoint's own.
        max_turns: generations at most; None takes the policy's own limit.
        temperature: 0 is greedy.
        engine: the engines behind the tools, as `agentfly.vision.factory.make_engines` takes them; None takes the
            embedded ones.
        nodes: image servers; what they do not offer is done by `engine`.
        agent, tools: see `agentfly.agents.spec`; what the policy's card names when None.
    """

    model: str | None = None
    base_url: str | None = None
    api_key_env: str = KEY_VARIABLE
    template: str | None = None
    max_turns: int | None = None
    temperature: float = 0.0
    engine: str | Mapping[str, Any] | None = None
    nodes: tuple[NodeConfig, ...] = ()
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None


@dataclass(frozen=True)
class EditRequest(PolicyOptions):
    """The request of `agentfly edit`.

    Attributes:
        image: path or URL.
        instruction: in words.
        out: file for the edited image.
        strip: file for the steps, a strip (.png) or an animation (.gif); None for none.
    """

    image: str
    instruction: str
    out: Path
    strip: Path | None = None


async def edit_image(request: EditRequest, console: Console) -> Trajectory:
    """Edit an image, show the steps, and write the result.

    Args:
        request: what was asked.
        console: shows the steps, and where the files are.

    Raises:
        UnchangedError: the agent changed nothing; the message says why, and nothing is written.
        AgentFlyError: a key is missing, a server does not answer, the agent made no image, or a file cannot be
            written; the message says why.
    """
    # A wrong path must not show after minutes of work.
    file_format(request.out)
    _check_folder(request.out, "--out")
    if request.strip is not None:
        check_steps_path(request.strip)
        _check_folder(request.strip, "--strip")
    agent = await make_edit_agent(request)
    try:
        content = [{"type": "image", "image": request.image}, {"type": "text", "text": f"\n{request.instruction}"}]
        result = await agent.run([{"role": "user", "content": content}], enable_streaming=True)
    finally:
        await agent.close()
    trajectory = result[0]
    if request.strip is not None and trajectory.images:
        strip = write_steps(steps(trajectory, agent.store), request.strip)
        show_styled(console, Text.assemble((printable(str(strip)), "bold"), " shows the steps"))
    check_result(trajectory, agent.store, request)
    assert trajectory.final_image is not None, "checked above"
    save_image(agent.store.get(trajectory.final_image), request.out)
    about = f" in {len(trajectory.turns)} turns, {trajectory.seconds:.1f} s"
    show_styled(console, Text.assemble((printable(str(request.out)), "bold"), about))
    return trajectory


def _check_folder(path: Path, option: str) -> None:
    """Check that the folder of a file can be written, as far as it exists."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"cannot write {str(path)!r} ({str(folder)!r} is a file): give another {option}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {str(folder)!r}: give another {option}")


async def make_edit_agent(request: PolicyOptions, store: ImageStore | None = None) -> Agent:
    """Return the agent for a request, after its endpoint and its image servers have answered.

    Args:
        request: what was asked.
        store: where images are kept; in memory when None.

    Raises:
        AgentFlyError: they do not, a key is missing, or there is no such model.
    """
    endpoint = None if request.base_url is None else endpoint_config(request.base_url, request.api_key_env)
    check_keys(request.engine)
    if endpoint is None:
        model = require_policy(request.model)
    else:
        model = await served_model(endpoint, request.model, request.api_key_env)
    await require_nodes(request.nodes, "leave --nodes out")
    policy = PolicyConfig.read(model)
    spec = AgentSpec(agent=request.agent, tools=request.tools).over(policy.spec, model)
    return make_agent(
        spec,
        model,
        template=request.template,
        backend="client" if endpoint else "async_vllm",
        backend_config=endpoint or AsyncVLLMConfig(),
        streaming="console",
        store=store,
        engines=request.engine,
        client_nodes=request.nodes,
        settings=AgentSettings(
            system_prompt=prompt_of(spec, policy),
            limits=RolloutLimits(
                max_turns=request.max_turns or policy.max_turns, max_tokens_per_turn=policy.max_tokens_per_turn
            ),
            sampling=SamplingParams(temperature=request.temperature, max_tokens=policy.max_tokens_per_turn),
        ),
    )


def check_result(trajectory: Trajectory, store: ImageStore, request: EditRequest) -> None:
    """Check that a chain made an image that is not the one it was given.

    Args:
        trajectory: of the chain.
        store: has its images.
        request: what was asked.

    Raises:
        UnchangedError: the pixels of the result are those of the given image.
        AgentFlyError: a fault ended the chain, or it made no image.
    """
    stopped, final = trajectory.stop_reason, trajectory.final_image
    reason = "unknown" if stopped is None else stopped.value
    if stopped is not None and stopped.failed:
        raise AgentFlyError(trajectory.error or f"the agent was stopped ({reason})")
    if final is None:
        raise AgentFlyError(f"the agent made no image ({reason}): {reasons(trajectory, request)}")
    if trajectory.images and same_pixels(store.get(trajectory.images[0]), store.get(final)):
        raise UnchangedError(
            f"the image is unchanged, so {request.out} was not written: {reasons(trajectory, request)}"
        )


def same_pixels(one: Image.Image, other: Image.Image) -> bool:
    """Return whether two images look the same to the last pixel, whatever their modes are."""
    return one.size == other.size and one.convert("RGBA").tobytes() == other.convert("RGBA").tobytes()


def reasons(trajectory: Trajectory, request: PolicyOptions) -> str:
    """Return which tool refused what, and what to try instead where the refusals do not say so."""
    records = trajectory.tool_records
    refusals = dict.fromkeys(
        f"{shortened(record.name)} said: {record.error}" for record in records if record.error is not None
    )
    if not refusals:
        called = dict.fromkeys(record.name for record in records if record.name != ImageTools.give_answer.__name__)
        done = f"the agent called {', '.join(called)}, which changed nothing" if called else "the agent called no tool"
        return f"{done}; try other words or another model"
    said = "; ".join(refusals)
    if request.nodes or request.engine not in (None, "classical"):
        return said  # a model or a server refused, or it did not answer: other engines and words do not mend that
    return (
        f"{said}; the embedded engines know six colours, four shapes, brightness, blur and grey: try --engine models "
        "(on a GPU), --engine openai (with a key), or --nodes HOST:PORT for an image server"
    )
