"""An agent: a policy on a backend, a set of tools, and runs of both."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from uuid import uuid4

from rich.console import Console
from rich.markup import escape

from agentfly.agents.llm_backends import LLMBackend, SamplingParams, make_backend
from agentfly.agents.rollout import Chain, Rollout, RolloutLimits
from agentfly.agents.streaming import ConsoleStream, OnEvent
from agentfly.agents.trajectory import StopReason, Trajectory
from agentfly.errors import ConfigError
from agentfly.images import ImageLimits, ImageStore, ImageView, load_image
from agentfly.messages import ImagePart, Message, TextPart, from_openai, text_message
from agentfly.tools import Toolset

Conversation = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RunResult:
    """Trajectories of a run, prompts in order and the chains of a prompt side by side."""

    trajectories: tuple[Trajectory, ...] = ()

    @property
    def rewards(self) -> list[float | None]:
        """Reward of each trajectory, None where it was not scored."""
        return [trajectory.reward for trajectory in self.trajectories]

    @property
    def stop_reasons(self) -> dict[StopReason, int]:
        """How often each reason ended a chain."""
        counts: dict[StopReason, int] = {}
        for trajectory in self.trajectories:
            if trajectory.stop_reason is not None:
                counts[trajectory.stop_reason] = counts.get(trajectory.stop_reason, 0) + 1
        return counts

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    def __getitem__(self, index: int) -> Trajectory:
        return self.trajectories[index]

    def __len__(self) -> int:
        return len(self.trajectories)


@dataclass(frozen=True)
class AgentSettings:
    """Settings that all agents share.

    Attributes:
        system_prompt: first message of every chain that brings none; None for no system message.
        limits: of every chain.
        sampling: of every turn.
        image_limits: what pictures are accepted.
        max_concurrent_chains: chains that run at the same time.
    """

    system_prompt: str | None = None
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    max_concurrent_chains: int = 64


class Agent(ABC):
    """Runs conversations with tools.

    Args:
        model_name_or_path: checkpoint folder, hub name, or the model name of an endpoint.
        template: chat template for token-level backends; None takes the checkpoint's own.
        backend: "async_vllm", "client", or a backend object.
        backend_config: configuration object of the backend, or a dict of its fields.
        streaming: "console" to show runs as they happen, or None.
        store: where pictures are kept; a store in memory by default.
        settings: see `AgentSettings`.
    """

    default_system_prompt: str | None = None

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
    ) -> None:
        if streaming not in (None, "console"):
            raise ConfigError(f"streaming={streaming!r} is not known; use 'console' or None")
        self.model_name_or_path = model_name_or_path
        self.settings = settings or AgentSettings(system_prompt=self.default_system_prompt)
        self.store = store or ImageStore()
        self.images = ImageView(self.store)
        self.backend = make_backend(backend, model_name_or_path, template, backend_config)
        self.streaming = streaming
        self.result = RunResult()

    @abstractmethod
    def toolset(self, view: ImageView) -> Toolset:
        """The tools of one chain, bound to the pictures it can name."""

    async def run(
        self,
        messages: Conversation | Sequence[Conversation],
        max_turns: int | None = None,
        num_chains: int = 1,
        enable_streaming: bool = False,
    ) -> RunResult:
        """Run conversations to their ends.

        Args:
            messages: one conversation or a list of them; a conversation is a list of messages, or a mapping with
                `messages` and anything else as metadata. The objects are not changed.
            max_turns: generations a chain; the agent's limit when None.
            num_chains: chains of each conversation, with a common `group_id`.
            enable_streaming: show the run as it happens (needs one chain and `streaming="console"`).

        Returns:
            All trajectories; a failed chain is one with an `error`.
        """
        conversations = _conversations(messages)
        on_event = self._stream(enable_streaming, num_chains * len(conversations))
        chains = []
        for index, conversation in enumerate(conversations):
            group = str(conversation.get("id") or f"{uuid4().hex[:8]}-{index}")
            chains += [self.chain(conversation, group, number) for number in range(num_chains)]
        self.result = RunResult(tuple(await self.run_chains(chains, max_turns=max_turns, on_event=on_event)))
        return self.result

    def chain(self, conversation: Mapping[str, Any], group_id: str, number: int = 0) -> Chain:
        """A chain ready to run: pictures stored and named, system prompt in place, tools bound.

        Args:
            conversation: mapping with `messages`; everything else becomes metadata.
            group_id: shared by the chains of one prompt; with `number` it makes the chain's id.
            number: of the chain within its group.
        """
        view = ImageView(self.store)

        def keep(source: Any) -> str:
            handle = self.store.put(load_image(source, self.settings.image_limits))
            view.add_handle(handle)
            return handle

        messages = [name_images(from_openai(message, keep), view) for message in conversation["messages"]]
        if self.settings.system_prompt and not any(message.role == "system" for message in messages):
            messages.insert(0, text_message("system", self.settings.system_prompt))
        metadata = {key: value for key, value in conversation.items() if key != "messages"}
        trajectory = Trajectory(f"{group_id}-{number}", group_id, messages, metadata=metadata)
        return Chain(trajectory, view, self.toolset(view))

    async def run_chains(
        self, chains: Sequence[Chain], *, max_turns: int | None = None, on_event: OnEvent | None = None
    ) -> list[Trajectory]:
        """Run chains side by side; on cancellation every trajectory keeps what it has."""
        limits = self.settings.limits
        if max_turns is not None:
            limits = replace(limits, max_turns=max_turns)
        rollout = Rollout(self.backend, limits, self.settings.sampling, on_event)
        gate = asyncio.Semaphore(self.settings.max_concurrent_chains)

        async def one(chain: Chain) -> Trajectory:
            async with gate:
                return await rollout.run(chain)

        try:
            return list(await asyncio.gather(*(one(chain) for chain in chains)))
        except asyncio.CancelledError:
            self.result = RunResult(tuple(chain.trajectory for chain in chains))
            raise

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """Trajectories of the last run."""
        return self.result.trajectories

    @property
    def rewards(self) -> list[float | None]:
        """Rewards of the last run."""
        return self.result.rewards

    def get_messages(self) -> list[dict[str, Any]]:
        """Messages of every chain of the last run, pictures as handles."""
        return [
            {"id": t.id, "messages": [message.to_dict() for message in t.messages]} for t in self.result.trajectories
        ]

    def print_messages(self, index: int = 0) -> None:
        """Show one chain of the last run on the console."""
        if not 0 <= index < len(self.result):
            raise ConfigError(f"there is no chain {index}: the last run has {len(self.result)}")
        console = Console()
        for message in self.result[index].messages:
            pictures = f" [dim]{' '.join(message.images)}[/dim]" if message.images else ""
            console.print(f"[bold]{message.role}[/bold]: {escape(message.text)}{pictures}")
            for call in message.tool_calls:
                console.print(f"  [cyan]→ {call.name}({escape(str(dict(call.arguments)))})[/cyan]")

    async def close(self) -> None:
        """Free the backend."""
        await self.backend.close()

    def _stream(self, enabled: bool, chains: int) -> OnEvent | None:
        if not enabled:
            return None
        if chains != 1:
            raise ConfigError(f"console streaming shows one chain, this run has {chains}; set enable_streaming=False")
        return ConsoleStream()


def name_images(message: Message, view: ImageView) -> Message:
    """The message with each picture's name written before it, so that the policy can refer to it."""
    if not message.images:
        return message
    parts: list[TextPart | ImagePart] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            parts.append(TextPart(f"{view.name(part.handle)}: "))
        parts.append(part)
    return Message(message.role, tuple(parts), message.tool_calls, message.tool_call_id)


def _conversations(messages: Any) -> list[Mapping[str, Any]]:
    """One or many conversations, in any of the accepted forms, as mappings with `messages`."""
    if isinstance(messages, Mapping):
        messages = [messages]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ConfigError("messages is a conversation or a non-empty list of conversations")
    if isinstance(messages[0], Mapping) and "role" in messages[0]:
        messages = [messages]
    found: list[Mapping[str, Any]] = []
    for entry in messages:
        if isinstance(entry, Mapping) and "messages" in entry:
            found.append(entry)
        elif isinstance(entry, Sequence) and not isinstance(entry, str):
            found.append({"messages": entry})
        else:
            raise ConfigError("a conversation is a list of messages, or a mapping with 'messages'")
    return found
