"""An agent: a policy on a backend, a set of tools, and runs of both."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Never

from rich.console import Console
from rich.text import Text
from typing_extensions import TypedDict, Unpack

from agentfly.agents.chain import AgentSettings, Chain, ChainHooks
from agentfly.agents.display.console import ConsoleStream, show_styled
from agentfly.agents.inputs import Conversation, OneConversation, name_images, read_messages
from agentfly.agents.llm_backends import LLMBackend, make_backend
from agentfly.agents.result import RunResult
from agentfly.agents.reward_function import Reward, as_reward
from agentfly.agents.rollout import Rollout
from agentfly.agents.run import Run, check_number, metadata_of
from agentfly.agents.streaming import Event, OnEvent, RunEnd
from agentfly.agents.trajectory import Trajectory
from agentfly.agents.user_tools import GivenTool, ToolChoice
from agentfly.aio import gather_or_cancel
from agentfly.errors import ConfigError, printable, unknown_name
from agentfly.images import ImageStore, ImageView, load_image
from agentfly.messages import text_message
from agentfly.tools import Tool, Toolset
from agentfly.vision import Engines


class ChainMessages(TypedDict):
    """The messages of a chain as `Message.to_dict` gives them, and the id of the chain."""

    id: str
    messages: list[dict[str, Any]]


class AgentArguments(TypedDict, total=False):
    """Arguments that every agent takes by keyword; a subclass takes them as `**arguments: Unpack[AgentArguments]`.

    Attributes:
        template: chat template for token-level backends; None takes the checkpoint's own.
        backend: "async_vllm" (the default), "client", or a backend object.
        backend_config: configuration object of the backend, or a dict of its fields.
        streaming: "console" to show runs as they happen, or None.
        store: where images are kept; a store in memory by default.
        settings: see `AgentSettings`.
        tools: names and groups that choose, and tools that are added; see `agentfly.agents.user_tools`.
        reward: scores every chain that was not stopped by a fault; see `agentfly.agents.reward_function`.
    """

    template: str | None
    backend: str | LLMBackend
    backend_config: Any
    streaming: Literal["console"] | None
    store: ImageStore | None
    settings: AgentSettings | None
    tools: Sequence[GivenTool] | None
    reward: Callable[..., object] | None


class RunArguments(TypedDict, total=False):
    """Arguments of `Agent.run` and `Agent.stream`; see `Agent.run`."""

    max_turns: int | None
    num_chains: int
    log_dir: str | Path | None


class Agent(ChainHooks):
    """Run conversations with tools.

    A chain has the tools of `toolset` and the `@tool` methods of the class (where `self.images` are the images of the
    chain); the argument `tools` chooses among them and adds others. A subclass may override `toolset`,
    `system_prompt`, `observe`, `stop` and `on_finish`, and nothing else.

    Args:
        model_name_or_path: checkpoint folder, hub name, or the model name of an endpoint.
        arguments: see `AgentArguments`.

    Raises:
        ConfigError: an argument is unknown or wrong; the message names the nearest valid one. Or a method that is
            overridden is async.
    """

    default_system_prompt: str | None = None
    engines: Engines | None = None

    def __init__(self, model_name_or_path: str, **arguments: Unpack[AgentArguments]) -> None:
        _check_names("argument", arguments, _constructor_arguments(type(self)))
        streaming = arguments.get("streaming")
        if streaming not in (None, "console"):
            raise ConfigError(f"streaming={streaming!r} is not known; use 'console' or None")
        _check_hooks(type(self))
        reward = arguments.get("reward")
        self.model_name_or_path = model_name_or_path
        self.settings = arguments.get("settings") or AgentSettings(system_prompt=self.default_system_prompt)
        self.store = arguments.get("store") or ImageStore()
        self.images = ImageView(self.store)
        tools = arguments.get("tools") or ()
        if isinstance(tools, (str, Mapping)):
            raise ConfigError(f"tools={tools!r}: give a list, such as tools=[{tools!r}]")
        self.tools = tuple(tools)
        self._choice = ToolChoice.of(self.tools)
        self.reward = None if reward is None else as_reward(reward)
        self.backend = make_backend(
            arguments.get("backend", "async_vllm"),
            model_name_or_path,
            arguments.get("template"),
            arguments.get("backend_config"),
        )
        self.streaming = streaming
        self.result = RunResult()

    def toolset(self, view: ImageView) -> Toolset:
        """Return tools bound to the images that one chain can name; for subclasses."""
        return Toolset()

    def system_prompt(self, metadata: Mapping[str, object]) -> str | None:
        """Return the first message of a chain that brings none, None for no message; for subclasses.

        Args:
            metadata: of the conversation; a task's id, type and fields in evaluations and in training.
        """
        return self.settings.system_prompt

    def tools_for(self, view: ImageView) -> Toolset:
        """Return the tools of a chain, as the argument `tools` chooses them.

        Raises:
            ConfigError: there is no tool of a name, or two have one name.
        """
        own = Toolset([*(replace(tool, view=view) for tool in self.toolset(view)), *method_tools(self, view)])
        return self._choice.tools(own, view, self.engines)

    async def run(
        self,
        messages: Conversation | Sequence[Conversation],
        max_turns: int | None = None,
        num_chains: int = 1,
        enable_streaming: bool = False,
        log_dir: str | Path | None = None,
        **unknown: Never,
    ) -> RunResult:
        """Run conversations to their ends.

        Several runs of one agent can go on at once. When a run is cancelled, `result` has what is done.

        Args:
            messages: one conversation or a list of them; a conversation is a list of messages, or a mapping with
                `messages` and anything else as metadata (`id` names it). The objects are not changed.
            max_turns: generations a chain; the agent's limit when None.
            num_chains: chains of each conversation, with a common `group_id`.
            enable_streaming: show the run as it happens (needs `streaming="console"`).
            log_dir: folder in which every finished chain is kept; a second run with it goes on where the first ended.

        Returns:
            All trajectories; a failed chain is one with an `error`.

        Raises:
            ConfigError: an argument is wrong, or the log is of other conversations.
            ImageError: an image of the only conversation cannot be loaded; among several, their chains fail alone.
        """
        _check_names("argument of run", unknown, {"messages", "enable_streaming", *RunArguments.__annotations__})
        if enable_streaming and self.streaming != "console":
            raise ConfigError(
                'enable_streaming=True shows the run on the console: make the agent with streaming="console"'
            )
        on_event = ConsoleStream(self.store.get) if enable_streaming else None
        return await self._make_run(on_event, max_turns=max_turns, num_chains=num_chains, log_dir=log_dir)(messages)

    def stream(
        self, messages: Conversation | Sequence[Conversation], **arguments: Unpack[RunArguments]
    ) -> AsyncGenerator[Event, None]:
        """Run conversations and yield events as they happen; the last one is always a `RunEnd`.

        A failure is an `ErrorRaised` and stands in `RunEnd.error`; it is not raised. Leaving the loop early cancels the
        run once the generator is closed (`contextlib.aclosing` does that at once).

        Args:
            messages: see `run`.
            arguments: `max_turns`, `num_chains`, `log_dir` of `run`.

        Raises:
            ConfigError: an argument is unknown or wrong.
        """
        _check_names("argument of stream", arguments, RunArguments.__annotations__)
        events: asyncio.Queue[Event] = asyncio.Queue()
        return _events(self._make_run(events.put, **arguments), messages, events)

    async def prepare(self) -> None:
        """Ask the servers among the tools for theirs, unless they are known. `run` and `stream` do it by themselves.

        Raises:
            ConfigError: a server cannot be started, or two tools have one name.
            ToolOutage: a server does not answer.
        """
        unknown = [source for source in self._choice.sources if not source.ready]
        if unknown:
            await gather_or_cancel(source.prepare() for source in unknown)
            self.tools_for(self.images)  # raises now what would else fail every chain

    def chain(
        self, conversation: OneConversation, group_id: str, number: int = 0, *, store: ImageStore | None = None
    ) -> Chain:
        """Return a chain that is ready to run: images stored and named, system prompt in place, tools bound.

        Args:
            conversation: mapping with `messages`; everything else becomes metadata.
            group_id: shared by the chains of one prompt; with `number` it makes the chain's id.
            number: of the chain within its group.
            store: where its images are kept; the agent's store by default.

        Raises:
            ConfigError: the tools of a server are not known; await `prepare` first.
        """
        self._choice.check_ready()
        store = store or self.store
        view = ImageView(store)
        messages = read_messages(conversation, lambda source: store.put(load_image(source, self.settings.image_limits)))
        for handle in (handle for message in messages for handle in message.images):
            view.add_handle(handle)
        messages = [name_images(message, view) for message in messages]
        metadata = metadata_of(conversation)
        prompt = self.system_prompt(metadata)
        if prompt and not any(message.role == "system" for message in messages):
            messages.insert(0, text_message("system", prompt))
        trajectory = Trajectory(f"{group_id}-{number}", group_id, messages, metadata=metadata)
        return Chain(trajectory, view, self.tools_for(view), hooks=self)

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """The trajectories of the run that finished last."""
        return self.result.trajectories

    @property
    def rewards(self) -> list[float | None]:
        """The rewards of the run that finished last."""
        return self.result.rewards

    def get_messages(self) -> list[ChainMessages]:
        """Return the messages of every chain of the run that finished last, images as handles."""
        return [
            {"id": t.id, "messages": [message.to_dict() for message in t.messages]} for t in self.result.trajectories
        ]

    def print_messages(self, index: int = 0) -> None:
        """Show one chain of the run that finished last on the console."""
        if not 0 <= index < len(self.result):
            raise ConfigError(f"there is no chain {index}: the last run has {len(self.result)}")
        console = Console()
        for message in self.result[index].messages:
            images = printable(f" {' '.join(message.images)}") if message.images else ""
            text = printable(f": {message.text}")
            show_styled(console, Text.assemble((message.role, "bold"), text, (images, "dim")))
            for call in message.tool_calls:
                arguments = printable(f"→ {call.name}({dict(call.arguments)})")
                show_styled(console, Text.assemble("  ", (arguments, "cyan")))

    async def close(self) -> None:
        """Free the backend, and end the servers that were started for the agent's tools."""
        try:
            await gather_or_cancel(source.close() for source in self._choice.own_sources)
        finally:
            await self.backend.close()

    def _make_run(
        self,
        on_event: OnEvent | None,
        max_turns: int | None = None,
        num_chains: int = 1,
        log_dir: str | Path | None = None,
    ) -> Run:
        limits = self.settings.limits
        if max_turns is not None:
            check_number("max_turns", max_turns)
            limits = replace(limits, max_turns=max_turns)
        check_number("num_chains", num_chains)
        score = None if self.reward is None else partial(_score, self.reward, self.settings.reward_timeout)
        rollout = Rollout(self.backend, limits, self.settings.sampling, on_event, score)
        return Run(self, rollout, num_chains, log_dir)


def method_tools(agent: Agent, view: ImageView) -> Iterator[Tool]:
    """Yield the `@tool` methods of an agent, bound to a copy of it for one chain.

    `images` and `store` of the copy are the chain's. Attributes that a method sets stay in the chain. Objects that the
    agent holds are shared by all chains.
    """
    own = copy.copy(agent)
    own.images, own.store = view, view.store
    yield from (replace(tool, view=view) for tool in Toolset.of(own))


async def _score(reward: Reward, timeout: float, chain: Chain) -> None:
    await reward.score(chain.trajectory, chain.view.store, timeout)


async def _events(run: Run, messages: object, events: asyncio.Queue[Event]) -> AsyncGenerator[Event, None]:
    task = asyncio.create_task(run(messages))
    try:
        while True:
            event = await events.get()
            yield event
            if isinstance(event, RunEnd):
                return
    finally:
        task.cancel()
        # Its outcome is in the events; only its end is awaited.
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()


def _constructor_arguments(agent: type[Agent]) -> set[str]:
    """Return the names that the constructors of a class and its bases take by keyword."""
    names = set(AgentArguments.__annotations__)
    for base in agent.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is not None and issubclass(base, Agent):
            parameters = inspect.signature(constructor).parameters.values()
            names |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return names - {"self"}


def _check_hooks(kind: type[Agent]) -> None:
    """Raise for an async method in place of a plain one: its coroutine would count as what it returns."""
    for name in ("toolset", "system_prompt", "observe", "stop"):
        if inspect.iscoroutinefunction(getattr(kind, name)):
            raise ConfigError(
                f"{name} of {kind.__name__} is async: write it as a plain def; only on_finish may be async"
            )


def _check_names(kind: str, given: Iterable[str], valid: Iterable[str]) -> None:
    valid = set(valid)
    for name in given:
        if name not in valid:
            raise ConfigError(unknown_name(kind, name, valid))
