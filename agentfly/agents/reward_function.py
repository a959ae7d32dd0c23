"""`@reward` makes a function of a finished chain the reward that the trainer learns from.

Its arguments are filled in by name: `trajectory`, `prediction` (the words of the answer), `messages`, `final_image` and
`source_image` (images, or None), `metadata` (everything in the conversation except its messages), `task` (the metadata
too, unless it has a field of that name), and each field of the metadata by its own name. In evaluations and in training
the fields are those of the data set's row, and there are `instruction`, `target` and `mask` (images, or None), `score`
(0 to 100) and `aspects` of the evaluator. An argument with a default may be missing; `**fields` takes all of the
metadata. Images are loaded, and the evaluator is asked, only for functions that ask for them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from agentfly.agents.trajectory import Trajectory
from agentfly.aio import CancelledItself, TimeLimitExceeded, call_in_thread, with_timeout
from agentfly.errors import ConfigError, unknown_name
from agentfly.images import ImageStore
from agentfly.importing import described, import_object

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., object])
Lazy = Callable[[], object]
_MARK = "__agentfly_reward__"
# What there is of every chain of a task; its data set's columns come on top.
GIVEN = (
    *("trajectory", "prediction", "messages", "final_image", "source_image", "metadata", "task", "id", "task_type"),
    *("instruction", "target", "mask", "score", "aspects"),
)


@dataclass(frozen=True)
class Reward:
    """A reward function and its arguments.

    Attributes:
        function: sync or async; returns a float, an int, a bool, or a dict with "reward" and any named parts.
        needed: names of arguments without a default.
        optional: names of arguments that have a default.
        everything: it takes all fields of the metadata.
    """

    function: Callable[..., Any]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    everything: bool = False

    def check_fields(self, fields: Iterable[str]) -> None:
        """Raise unless a task with these fields has all that the function asks for.

        Args:
            fields: names of the columns of its data set.

        Raises:
            ConfigError: the function has an argument of another name; the message names the nearest.
        """
        known = {*GIVEN, *fields}
        for name in self.needed:
            if name not in known:
                raise ConfigError(unknown_name("argument of the reward function", name, known))

    def asks_for(self, *names: str) -> bool:
        """Return True if one of these is an argument of the function."""
        return bool({*self.needed, *self.optional} & set(names))

    async def score(
        self, trajectory: Trajectory, store: ImageStore, timeout: float, fields: Mapping[str, Lazy] | None = None
    ) -> None:
        """Write the reward and its parts on a trajectory. A failure is written there too, and not raised.

        Args:
            trajectory: finished.
            store: with its images.
            timeout: seconds.
            fields: further values by name, each made when the function asks for it.
        """
        try:
            value = await with_timeout(self._call(trajectory, store, fields or {}), timeout)
            trajectory.reward, trajectory.reward_parts = _read(value)
        except TimeLimitExceeded:
            trajectory.reward_error = f"the reward function took longer than {timeout:g} s"
        except CancelledItself:
            trajectory.reward_error = "the reward function was cancelled"
        except Exception as fault:  # a fault of the reward function must not end the chain or the batch
            logger.warning("no reward for %s", trajectory.id, exc_info=fault)
            trajectory.reward_error = described(fault)

    async def _call(self, trajectory: Trajectory, store: ImageStore, fields: Mapping[str, Lazy]) -> object:
        arguments = await asyncio.to_thread(self._arguments, trajectory, store, fields)
        if inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(type(self.function).__call__):
            return await self.function(**arguments)
        value = await call_in_thread(self.function, **arguments)
        return await value if inspect.isawaitable(value) else value

    def _arguments(self, trajectory: Trajectory, store: ImageStore, fields: Mapping[str, Lazy]) -> dict[str, object]:
        def image(handle: str | None) -> Image.Image | None:
            return store.get(handle) if handle else None

        first = next((handle for message in trajectory.messages for handle in message.images), None)
        # Each value is loaded only for a function that has an argument for it.
        known: dict[str, Lazy] = {
            "task": lambda: trajectory.metadata,
            **{name: partial(trajectory.metadata.__getitem__, name) for name in trajectory.metadata},
            **fields,
            "trajectory": lambda: trajectory,
            "prediction": lambda: trajectory.answer,
            "messages": lambda: trajectory.messages,
            "final_image": lambda: image(trajectory.final_image),
            "source_image": lambda: image(first),
            "metadata": lambda: trajectory.metadata,
        }
        missing = [name for name in self.needed if name not in known]
        if missing:
            raise ConfigError(unknown_name("argument of the reward function", missing[0], known))
        wanted = {name: known[name] for name in (*self.needed, *self.optional) if name in known}
        if self.everything:
            wanted = {**{name: known[name] for name in trajectory.metadata}, **wanted}
        return {name: find() for name, find in wanted.items()}


def reward(function: F) -> F:
    """Mark a function as a reward function and return it unchanged.

    Raises:
        ConfigError: an argument that cannot be given by name.
    """
    setattr(function, _MARK, _describe(function))
    return function


def as_reward(function: Callable[..., object]) -> Reward:
    """Return the `Reward` of a function, marked or not, or of any other callable."""
    found = getattr(function, _MARK, None)
    return found if isinstance(found, Reward) else _describe(function)


def import_reward(address: str) -> Reward:
    """Return the reward function that "module:function" names.

    Raises:
        ConfigError: there is none, or it is an evaluator or no function.
    """
    found = import_object(address, "reward function")
    if hasattr(found, "evaluate"):
        raise ConfigError(f"{address!r} is an evaluator, not a reward function: name it as the evaluator")
    if not callable(found):
        raise ConfigError(f"{address!r} is {type(found).__name__}: a reward is a function; see agentfly.agents.reward")
    return as_reward(found)


def _describe(function: Callable[..., object]) -> Reward:
    if not callable(function):
        raise ConfigError(f"reward is a function, not {type(function).__name__}; see agentfly.agents.reward")
    needed, optional, everything = [], [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            everything = True
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            raise ConfigError(f"reward: {parameter} cannot be given by name; name each argument")
        elif parameter.default is parameter.empty:
            needed.append(parameter.name)
        else:
            optional.append(parameter.name)
    return Reward(function, tuple(needed), tuple(optional), everything)


def _read(value: object) -> tuple[float, dict[str, float]]:
    """Return reward and parts of the value that a reward function returned."""
    if not isinstance(value, Mapping):
        return _number("reward", value), {}
    if "reward" not in value:
        raise ConfigError(f"a reward function that returns a dict puts the number under 'reward', got {sorted(value)}")
    parts = {str(name): _number(str(name), part) for name, part in value.items() if name != "reward"}
    return _number("reward", value["reward"]), parts


def _number(name: str, value: object) -> float:
    if not isinstance(value, (bool, np.bool_, numbers.Real)):
        raise ConfigError(f"{name} is {type(value).__name__}; a reward function returns numbers")
    number = float(value)
    if not math.isfinite(number):
        raise ConfigError(f"{name} is {number}; a reward is a finite number")
    return number
