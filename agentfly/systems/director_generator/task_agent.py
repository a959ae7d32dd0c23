"""The director–generator as an agent for editing tasks: a baseline that improves prompts.

A run becomes a trajectory, for tables with the agents that call tools. Every call of a director or a generator is a
turn, in the order of the record. A prompt that became an image is the call of a tool, `make_image`, which the
orchestrator carried out; the image is the tool's result. There are no token ids, because the chat works on messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import agentfly
from agentfly.agents.llm_backends import ClientBackend, ClientConfig, LLMBackend
from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError
from agentfly.images import ImageStore, load_image
from agentfly.messages import ImagePart, Message, Part, TextPart, ToolCall, text_message
from agentfly.systems.director_generator.records import RunRecord
from agentfly.systems.director_generator.run import Request
from agentfly.systems.director_generator.settings import ModelSettings, SdxlSettings, Studio, load_studio
from agentfly.systems.director_generator.studio import DirectorGenerator
from agentfly.systems.environment import read_env
from agentfly.systems.generators.base import EditingGenerator
from agentfly.vision import make_engines
from agentfly.vision.base import Engines
from agentfly.vision.factory import check_keys

# The recipe lies beside the package in a checkout; an installed package has none, and `config` is needed.
_CONFIG = Path(agentfly.__file__).parents[1] / "recipes/director_generator/config/system_config.yaml"
TOOL = {
    "type": "function",
    "function": {
        "name": "make_image",
        "description": "Carried out by the orchestrator with every prompt that a generator writes.",
        "parameters": {
            "type": "object",
            "properties": {"prompt": {"type": "string"}, "negative_prompt": {"type": "string"}},
            "required": ["prompt"],
        },
    },
}
_STOPS = {
    "threshold": StopReason.ANSWERED,
    "max_loops": StopReason.MAX_TURNS,
    "recursion_limit": StopReason.MAX_TURNS,
    "timeout": StopReason.WALL_CLOCK,
}


class DirectorGeneratorTaskAgent:
    """An agent that does editing tasks with directors and generators.

    Args:
        config: the YAML file; the recipe's own by default.
        model: one chat model for all roles, in place of those of the file.
        base_url: OpenAI-compatible endpoint of that model, up to /v1; None for the file's.
        api_key_env: environment variable with the endpoint's key.
        engine: editor of the task's image, as in `agentfly.vision.make_engines`; the generators' prompts are its
            instructions. "sdxl" makes images from text alone, as `sdxl` in the file says: of the task's image they
            show only what the directors describe.
        max_loops, threshold, temperature, max_tokens: in place of the file's.
        seed: of a task's first image; None for the file's, or a random one.
        timeout: seconds of a task; the trajectory keeps all that was done until then.
        backend: a chat backend for all roles, in place of a model.
        store: keeps the images; in memory by default.
        name: in tables.

    Raises:
        ConfigError: a setting is wrong, a key is missing, or the file is not there.
    """

    def __init__(
        self,
        *,
        config: str | Path | None = None,
        model: str | None = None,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        engine: str | Mapping[str, object] | Engines | None = "classical",
        max_loops: int | None = None,
        threshold: float | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        timeout: float | None = None,
        backend: LLMBackend | None = None,
        store: ImageStore | None = None,
        name: str = "director-generator",
    ) -> None:
        if base_url is not None and model is None:
            raise ConfigError("base_url needs the name of the model there: give model too")
        path = Path(config) if config is not None else _CONFIG
        env = read_env()
        studio = load_studio(path, env, max_loops=max_loops, evaluation_threshold=threshold)
        studio = _overridden(studio, seed, model=model, temperature=temperature, max_tokens=max_tokens)
        if backend is None and model is not None and base_url is not None:
            settings = studio.settings
            client = ClientConfig(
                base_url=base_url, api_key=env.get(api_key_env), timeout=settings.timeout, max_retries=settings.retries
            )
            backend = ClientBackend(model, client)
        self.name = name
        self._timeout = timeout
        self.store = store or ImageStore()
        if engine != "sdxl":
            check_keys(engine)
        backends = None if backend is None else dict.fromkeys(studio.settings.models, backend)
        editor = None if engine == "sdxl" else EditingGenerator(make_engines(engine).editor)
        self._system = DirectorGenerator(
            studio, backends=backends, generator=editor, edits=editor is not None, store=self.store
        )

    async def attempt(self, task: EditTask) -> Trajectory:
        """Do a task. A failure is in the trajectory.

        Raises:
            ImageError: an image of the task cannot be loaded.
        """
        images = tuple([await asyncio.to_thread(load_image, source) for source in task.images])
        given = [self.store.put(image) for image in images]
        record = await self._system.run(Request(task.instruction, images), timeout=self._timeout)
        return to_trajectory(record, task, given, self.name)

    async def close(self) -> None:
        """Close connections and drop loaded models."""
        await self._system.close()


def _overridden(studio: Studio, seed: int | None, **fields: str | float | None) -> Studio:
    """Return a studio with the fields of every model, and the seed, overridden; None leaves a value as it is."""
    changes = {name: value for name, value in fields.items() if value is not None}
    settings = studio.settings
    models = {alias: ModelSettings(**{**known.model_dump(), **changes}) for alias, known in settings.models.items()}
    sdxl = settings.sdxl if seed is None else SdxlSettings(**{**settings.sdxl.model_dump(), "seed": seed % 2**32})
    return replace(studio, settings=settings.model_copy(update={"models": models, "sdxl": sdxl}))


def to_trajectory(record: RunRecord, task: EditTask, given: Sequence[str], system: str) -> Trajectory:
    """Return a run as a trajectory.

    Args:
        record: of the run.
        task: the task that the run worked on.
        given: handles of the task's images.
        system: name of the agent.
    """
    best, last = record.best, record.phases[-1].calls if record.phases else []
    # Without a single usable reply in the last phase the chat failed, not the engine.
    silent = bool(last) and all(call.error for call in last)
    facts = {
        "status": record.status,
        "directors_score": None if best is None else best.score,
        "best_is_stand_in": best is not None and best.stand_in,
        **record.counts(),
    }
    trajectory = Trajectory(
        record.id,
        task.id,
        [Message("user", (*map(ImagePart, given), TextPart(f"\n{task.instruction}")))],
        names={f"img_{number}": handle for number, handle in enumerate(dict.fromkeys(given), 1)},
        images=list(given),
        stop_reason=_STOPS.get(record.status, StopReason.BACKEND_ERROR if silent else StopReason.ERROR),
        error=record.error,
        final_image=best.handle if best else None,
        answer="" if best is None else f"{best.generator}, round {best.loop}: {best.prompt}",
        seconds=record.seconds,
        metadata={**task.metadata, "task_type": task.task_type, "system": system, system: facts},
        tools=[TOOL],
    )
    _add_turns(trajectory, record)
    return trajectory


def _add_turns(trajectory: Trajectory, record: RunRecord) -> None:
    """Add each call in order, with the image that was made of it, if one was asked for."""
    images = {(image.loop, image.generator): image for image in record.images}
    names = {handle: name for name, handle in trajectory.names.items()}
    for loop, call in ((phase.loop, call) for phase in record.phases for call in phase.calls):
        image = images.get((loop, call.agent)) if call.role == "generator" and not call.error else None
        text = f"[{call.role} {call.agent}] {call.reply or f'(failed: {call.error})'}"
        tools: tuple[ToolRecord, ...] = ()
        if image is not None:
            arguments = {"prompt": image.prompt, "negative_prompt": image.negative_prompt}
            data = {"seed": image.seed, "directors_score": image.score, "stand_in": image.stand_in}
            tools = (ToolRecord("make_image", arguments, image.seconds, image.engine, image.fault, data=data),)
        trajectory.turns.append(
            Turn(
                call.reply,
                call.finish_reason or "abort",
                call.seconds,
                tools,
                prompt_tokens=call.prompt_tokens,
                completion_tokens=call.completion_tokens,
            )
        )
        if image is None:
            trajectory.messages.append(text_message("assistant", text))
            continue
        asked = ToolCall(f"call_{len(trajectory.turns)}", "make_image", tools[0].arguments)
        trajectory.messages.append(Message("assistant", (TextPart(text),), (asked,)))
        result: tuple[Part, ...] = (TextPart(f"no image: {image.fault}"),)
        if image.handle is not None:
            name = names.setdefault(image.handle, f"img_{len(names) + 1}")
            trajectory.names[name] = image.handle
            trajectory.images.append(image.handle)
            words = f"{name}, a placeholder: {image.fault}" if image.stand_in else name
            result = (TextPart(words), ImagePart(image.handle))
        trajectory.messages.append(Message("tool", result, tool_call_id=asked.id))
