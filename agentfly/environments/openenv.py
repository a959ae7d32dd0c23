"""The editing environment as a server of OpenEnv (`openenv-core`).

A WebSocket is a session, with one episode at a time. An action is the policy's message, an observation what the tools
did with it, both in OpenAI's form with images as data URIs. The reward of the whole chain comes with the last step.

Over plain HTTP OpenEnv makes a new environment for each request: `POST /reset` shows how an episode begins, and a step
needs the WebSocket.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never

from pydantic import Field

from agentfly import __version__
from agentfly.datasets import EditTask
from agentfly.datasets.task import TaskRow
from agentfly.environments.editing import EditingEnvironment, Episode
from agentfly.environments.settings import EnvironmentSettings
from agentfly.errors import ConfigError, MissingExtraError, unknown_name
from agentfly.serving.hosts import is_loopback
from agentfly.serving.http_server import check_port, make_server
from agentfly.serving.settings import ConnectionLimits
from agentfly.settings import Settings

try:
    from openenv.core.env_server.http_server import create_fastapi_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, ConcurrencyConfig, EnvironmentMetadata, Observation, State
except ImportError as fault:
    raise MissingExtraError("the OpenEnv server", "openenv") from fault

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

_LONGEST_ID = 255
_RESET_ARGUMENTS = ("seed", "episode_id", "index")


class EditingAction(Action):
    """A turn of the policy.

    Attributes:
        message: an assistant message in OpenAI's form, with `content` and `tool_calls`; or the text as sampled, from
            which calls are parsed.
        finish_reason: "length" where a limit cut the turn.
    """

    message: str | dict[str, Any] = Field(description="assistant message in OpenAI's form, or the text as sampled")
    finish_reason: Literal["stop", "tool_calls", "length"] = Field("stop", description="reason for the turn's end")


class EditingObservation(Observation):
    """The messages that follow a turn; with a reset, those that the conversation begins with.

    Attributes:
        messages: in OpenAI's form; images are data URIs (PNG).
        tools: schemas in OpenAI's form, with a reset.
        info: of the episode; see `agentfly.environments.Episode.info`.
    """

    messages: list[dict[str, Any]] = Field(default_factory=list, description="messages in OpenAI's form")
    tools: list[dict[str, Any]] = Field(default_factory=list, description="tool schemas, with a reset")
    info: dict[str, Any] = Field(default_factory=dict, description="facts about the episode")


class EditingState(State):
    """The state of a session: besides OpenEnv's fields, those of `agentfly.environments.Episode.info`."""


class ServerSettings(Settings):
    """The limits of the server.

    Attributes:
        max_sessions: sessions at once; further ones are refused.
        session_timeout: seconds after its last step in which a session keeps its place.
        max_message_bytes: largest message of a client.
        connections: see `ConnectionLimits`.
    """

    written_as: ClassVar[str] = "--"

    max_sessions: int = Field(64, ge=1)
    session_timeout: float = Field(1800.0, gt=0)
    max_message_bytes: int = Field(1024 * 1024, ge=1024)
    connections: ConnectionLimits = ConnectionLimits()


class Tasks:
    """The objects that the sessions of a server share: the environment, and the tasks, which they take in turn.

    Args:
        environment: begins the episodes.
        rows: of the data set.
    """

    def __init__(self, environment: EditingEnvironment, rows: Sequence[TaskRow]) -> None:
        self.environment = environment
        self._rows = rows
        self._next = itertools.count()
        self._ending: set[concurrent.futures.Future[None]] = set()

    async def task(self, seed: int | None, index: int | None) -> EditTask:
        """Return a task: that of an index, else the one that a seed chooses, else the next in turn.

        Raises:
            ConfigError: there is no task of that index.
            DatasetError: the row is no task.
        """
        if index is None:
            index = (next(self._next) if seed is None else seed) % len(self._rows)
        if index >= len(self._rows):
            raise ConfigError(f"index is from 0 to {len(self._rows) - 1}, the tasks of this server")
        return await asyncio.to_thread(self._rows[index].task)

    def end(self, episode: Episode, loop: asyncio.AbstractEventLoop) -> None:
        """End an episode on its own loop, from any thread."""
        if not loop.is_closed():
            ending = asyncio.run_coroutine_threadsafe(episode.close(), loop)
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)


class EditingSession(Environment[EditingAction, EditingObservation, EditingState]):
    """One session of the server.

    Args:
        tasks: shared by the sessions.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, tasks: Tasks) -> None:
        super().__init__()
        self._tasks = tasks
        self._episode: Episode | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def reset_async(
        self, seed: object = None, episode_id: object = None, index: object = None, **unknown: object
    ) -> EditingObservation:
        """Begin an episode; one that runs is ended.

        Args:
            seed: equal ones give the same task: take one for the episodes of a group.
            episode_id: of the trajectory; made up by default.
            index: of the task, in place of a seed.
            **unknown: refused.

        Raises:
            ConfigError: an argument is unknown or wrong.
            DatasetError: the row is no task.
        """
        for name in unknown:
            raise ConfigError(unknown_name("argument of reset", name, _RESET_ARGUMENTS))
        if episode_id is not None and not (isinstance(episode_id, str) and 0 < len(episode_id) <= _LONGEST_ID):
            raise ConfigError(f"episode_id is a text of at most {_LONGEST_ID} characters")
        if self._closed:
            raise ConfigError("this session is over, since nothing came for too long: connect anew")
        task = await self._tasks.task(_whole("seed", seed), _whole("index", index))
        if self._episode is not None:
            await self._episode.close()
        self._loop = asyncio.get_running_loop()
        self._episode = episode = await self._tasks.environment.reset(task, episode_id=episode_id)
        return EditingObservation(messages=_plain(episode.messages), tools=episode.tools, info=dict(episode.info))

    async def step_async(self, action: EditingAction, timeout_s: float | None = None) -> EditingObservation:
        """Take a turn of the policy; see `Episode.step`.

        Args:
            action: the turn.
            timeout_s: not used, as OpenEnv's client sends none; the limits of the episode hold.

        Raises:
            ConfigError: there is no episode, it is over, or the action is no turn.
        """
        if self._episode is None:
            raise ConfigError("there is no episode: reset first, over the same WebSocket")
        result = await self._episode.step(action.message, finish_reason=action.finish_reason)
        return EditingObservation(
            done=result.done, reward=result.reward, messages=_plain(result.messages), info=dict(result.info)
        )

    @property
    def state(self) -> EditingState:
        """The episode as far as it has come."""
        if self._episode is None:
            return EditingState()
        info = dict(self._episode.info)
        return EditingState(step_count=len(self._episode.trajectory.turns), **info)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: object) -> Never:
        """Refuse; see `reset_async`."""
        raise ConfigError("tools work asynchronously: await reset_async and step_async")

    def step(self, action: EditingAction, timeout_s: float | None = None, **kwargs: object) -> Never:
        """Refuse; see `step_async`."""
        self.reset()

    def close(self) -> None:
        """End the episode. The server calls this from a thread."""
        self._closed = True
        episode, self._episode = self._episode, None
        if episode is not None and self._loop is not None:
            self._tasks.end(episode, self._loop)

    def get_metadata(self) -> EnvironmentMetadata:
        """Return name, description and version."""
        return EnvironmentMetadata(
            name="agentfly-editing",
            description="Edit images as a user asks, by calling tools over several turns; scored against a target.",
            version=__version__,
        )


def create_app(tasks: Tasks, settings: ServerSettings) -> FastAPI:
    """Return the application of OpenEnv with our sessions.

    Args:
        tasks: shared by the sessions.
        settings: limits of the server.
    """
    limits = ConcurrencyConfig(max_concurrent_envs=settings.max_sessions, session_timeout=settings.session_timeout)
    return create_fastapi_app(partial(EditingSession, tasks), EditingAction, EditingObservation, None, limits)


async def serve(settings: EnvironmentSettings, server: ServerSettings, host: str, port: int) -> None:
    """Serve the environment until SIGTERM or SIGINT.

    Args:
        settings: of the environment.
        server: limits of the server.
        host, port: address to listen on.

    Raises:
        ConfigError: a setting is wrong.
        DatasetError: the data set cannot be read.
    """
    tasks = Tasks(settings.make_environment(), await asyncio.to_thread(settings.rows))
    try:
        app = create_app(tasks, server)
        most = server.max_message_bytes
        running = make_server(app, host, port, server.connections, ws="auto", ws_max_size=most, log_level="info")
        await running.serve()
    finally:
        await tasks.environment.close()


def run_server(settings: EnvironmentSettings, server: ServerSettings, host: str, port: int) -> None:
    """Serve until a signal ends the process; see `serve`."""
    if not is_loopback(host):
        logger.warning("anybody who reaches %s may use this server: OpenEnv's client sends no key", host)
    check_port(host, port)
    # uvicorn raises the signal again once everything is closed; an orderly end is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(serve(settings, server, host, port))


def _whole(name: str, given: object) -> int | None:
    """Return a number of a client, who may have sent anything."""
    if given is not None and not (isinstance(given, int) and given >= 0):
        raise ConfigError(f"{name} is a whole number from 0")
    return given


def _plain(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [dict(message) for message in messages]
