"""A run as a trajectory, for tables with the agents that call tools.

Every call of a director or a generator is a turn, in the order of the record. A prompt that became an image is the
call of a tool, `make_image`, which the orchestrator carried out; the image is the tool's result. There are no token
ids, because the chat works on messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.datasets.task import EditTask
from agentfly.messages import ImagePart, Message, Part, TextPart, ToolCall, text_message
from agentfly.systems.director_generator.records import RunRecord

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
