"""The refinement loop as an agent for editing tasks: a baseline that improves prompts, for tables with trained agents.

Each iteration is one turn of the trajectory: its text is the prompt, and its one tool call makes the image. The loop's
own judge is not the evaluator of the table; its scores are in the tool records.
"""

from __future__ import annotations

import asyncio
import time

from PIL import Image

from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError, ImageError
from agentfly.images import ImageStore, ImageView, load_image
from agentfly.messages import ImagePart, Message, Part, TextPart, ToolCall, text_message
from agentfly.systems.refinement.factory import make_loop
from agentfly.systems.refinement.loop import Iteration, LoopEnd, Refinement
from agentfly.systems.refinement.settings import RefinementSettings

TOOL = "make_image"


class RefinementTaskAgent:
    """An agent that does editing tasks with a refinement loop, several at once.

    Args:
        store: keeps the images; in memory by default.
        name: in tables.
        max_turns: iterations at most, in place of `max_iterations`.
        seed: see `RefinementSettings`.
        timeout: seconds of a task; the trajectory keeps all that was done until then.
        request_timeout: seconds for one request.
        api_key_env: environment variable with the key.
        settings: further fields of `RefinementSettings`. Background and size default to "auto", because an edit keeps
            those of the image.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(
        self,
        *,
        store: ImageStore | None = None,
        name: str = "refinement-loop",
        max_turns: int | None = None,
        seed: int | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        **settings: object,
    ) -> None:
        self.name = name
        self.store = store if store is not None else ImageStore()
        given = {"max_iterations": max_turns, "timeout": request_timeout}
        settings |= {key: value for key, value in given.items() if value is not None}
        edits = {"background": "auto", "size": "auto"}
        self.settings = RefinementSettings(**{**edits, **settings, "seed": seed, "api_key_env": api_key_env})
        self._loop, self._close = make_loop(self.settings)
        self._loop.wall_clock = timeout

    async def attempt(self, task: EditTask) -> Trajectory:
        """Do a task: refine its images by its instruction.

        Raises:
            ConfigError: a key, a model or a setting is wrong, so that every task would fail.
        """
        started = time.monotonic()
        try:
            sources = [await asyncio.to_thread(load_image, source) for source in task.images]
        except ImageError as fault:
            asked = [text_message("user", task.instruction)]
            return Trajectory(
                f"{task.id}-0", task.id, asked, stop_reason=StopReason.ERROR, error=str(fault), metadata=_metadata(task)
            )
        done = await self._loop.run(task.instruction, sources)
        if done.error is not None:
            raise ConfigError(done.error)
        trajectory = await asyncio.to_thread(self._trajectory, task, sources, done)
        trajectory.seconds = time.monotonic() - started
        return trajectory

    async def close(self) -> None:
        """Free the connections and models of the loop."""
        await self._close()

    def _trajectory(self, task: EditTask, sources: list[Image.Image], done: Refinement) -> Trajectory:
        view = ImageView(self.store)
        handles = [self.store.put(source) for source in sources]
        asked: list[Part] = [ImagePart(handle) for handle in handles]
        trajectory = Trajectory(f"{task.id}-0", task.id, [Message("user", (*asked, TextPart(task.instruction)))])
        for handle in handles:
            view.add_handle(handle)
        written, source = 0.0, next(iter(handles), None)
        for iteration in done.iterations:
            made = None if iteration.image is None else self.store.put(iteration.image.image)
            if made is not None:
                view.add_handle(made)
            _add_turn(trajectory, iteration, made, source, written)
            source = made or source
            written = iteration.seconds.get("refine", 0.0)
            if iteration is done.best:
                trajectory.final_image = made
        trajectory.images = [handle for message in trajectory.messages for handle in message.images]
        trajectory.names = {name: view.handle(name) for name in view}
        best = done.best
        if best is not None:
            # A run with an image has answered, even where it reached its limit.
            trajectory.stop_reason = StopReason.ANSWERED
            score = "without a score" if best.score is None else f"which its judge gave {best.score:.0f} of 100"
            trajectory.answer = f"The image of iteration {best.number}, {score}."
            trajectory.messages.append(text_message("assistant", trajectory.answer))
        else:
            over = done.end is LoopEnd.WALL_CLOCK
            trajectory.stop_reason = StopReason.WALL_CLOCK if over else StopReason.MAX_TURNS
        usage = {role: vars(account) for role, account in done.usage.items()}
        loop = {"end": done.end.value, "thread_id": done.thread_id, "usage": usage}
        trajectory.metadata = {**_metadata(task), "refinement": loop}
        return trajectory


def _add_turn(
    trajectory: Trajectory, iteration: Iteration, made: str | None, source: str | None, written: float
) -> None:
    """Add one iteration.

    Args:
        trajectory: to add to.
        iteration: the turn.
        made, source: handles of its image, and of the image that this one was made from.
        written: seconds that writing the prompt took.
    """
    data: dict[str, object] = {
        "source": source,
        "score": iteration.score,
        "feedback": iteration.feedback,
        "aspects": iteration.aspects,
    }
    if made is not None and iteration.fault is not None:
        data["fault"] = iteration.fault
    arguments = {"prompt": iteration.prompt}
    record = ToolRecord(
        TOOL,
        arguments,
        iteration.seconds.get("generate", 0.0),
        engine=iteration.engine,
        error=iteration.fault if made is None else None,
        data=data,
        images=() if made is None else (made,),
        began=iteration.began,
    )
    trajectory.turns.append(Turn(iteration.prompt, "stop", written, (record,)))
    call = ToolCall(f"call_{iteration.number}", TOOL, arguments)
    seen: tuple[Part, ...] = () if made is None else (ImagePart(made),)
    observed = (*seen, TextPart(iteration.critique.words()))
    trajectory.messages += [Message("assistant", (), (call,)), Message("tool", observed, tool_call_id=call.id)]


def _metadata(task: EditTask) -> dict[str, object]:
    return {"id": task.id, "task_type": task.task_type}
