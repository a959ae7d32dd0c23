"""The result of a run: trajectories, rewards and metrics, and their conversion to the formats of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from agentfly.agents.llm_backends.openai_format import wire_messages
from agentfly.agents.trajectory import StopReason, Trajectory, plain
from agentfly.errors import require
from agentfly.files import encodable, write_text
from agentfly.images import ImageStore, data_uri, encode_image, without_transparency

if TYPE_CHECKING:
    from datasets import Dataset, Features


@dataclass(frozen=True)
class RunResult:
    """Trajectories of a run, prompts in order and the chains of a prompt side by side.

    Attributes:
        trajectories: all of them; a failed one has an `error`.
        store: holds the images that they name.
    """

    trajectories: tuple[Trajectory, ...] = ()
    store: ImageStore = field(default_factory=ImageStore, repr=False, compare=False)

    @property
    def rewards(self) -> list[float | None]:
        """The reward of each trajectory, None where it was not scored."""
        return [trajectory.reward for trajectory in self.trajectories]

    @property
    def stop_reasons(self) -> dict[StopReason, int]:
        """The number of chains that each reason ended."""
        counts: dict[StopReason, int] = {}
        for trajectory in self.trajectories:
            if trajectory.stop_reason is not None:
                counts[trajectory.stop_reason] = counts.get(trajectory.stop_reason, 0) + 1
        return counts

    @property
    def metrics(self) -> dict[str, float]:
        """Means over the chains of the run, and the number of chains for each `stop/<reason>`.

        `look_calls` are those of `tool_calls` that only look. `tokens` are those that the policy sampled; `reward` and
        `reward/<part>` are means over the chains that have it.
        """
        trajectories = self.trajectories
        records = [trajectory.tool_records for trajectory in trajectories]
        figures = {
            "chains": float(len(trajectories)),
            "turns": _mean([len(trajectory.turns) for trajectory in trajectories]),
            "tool_calls": _mean([len(calls) for calls in records]),
            "look_calls": _mean([sum(call.looks for call in calls) for calls in records]),
            "tool_errors": _mean([sum(call.error is not None for call in calls) for calls in records]),
            "malformed_calls": _mean([sum(call.malformed for call in calls) for calls in records]),
            "tokens": _mean(
                [
                    sum(turn.completion_tokens for turn in t.turns) if t.tokens is None else sum(t.tokens.mask)
                    for t in trajectories
                ]
            ),
            "seconds": _mean([trajectory.seconds for trajectory in trajectories]),
            "reward_errors": float(sum(trajectory.reward_error is not None for trajectory in trajectories)),
        }
        rewards = [reward for reward in self.rewards if reward is not None]
        if rewards:
            figures["reward"] = _mean(rewards)
        for part in sorted({name for trajectory in trajectories for name in trajectory.reward_parts}):
            values = [trajectory.reward_parts.get(part) for trajectory in trajectories]
            figures[f"reward/{part}"] = _mean([value for value in values if value is not None])
        counts = self.stop_reasons
        return {**figures, **{f"stop/{reason.value}": float(counts.get(reason, 0)) for reason in StopReason}}

    def to_dataset(self) -> Dataset:
        """Return a data set with one row a trajectory: messages, images in their order, exact tokens, reward, and more.

        Values without a fixed form (tools, arguments of calls, metadata, reward parts) are JSON text.

        Raises:
            MissingExtraError: `datasets` is not installed.
        """
        require("datasets", "RunResult.to_dataset", "data")
        import datasets

        rows = [_row(trajectory, self.store) for trajectory in self.trajectories]
        return datasets.Dataset.from_list(rows, features=_features())

    def to_openai_jsonl(self, path: str | Path, only: Callable[[Trajectory], bool] | None = None) -> int:
        """Write trajectories as OpenAI fine-tuning examples: `messages` and `tools`, images as data URIs.

        Trajectories in which the policy said nothing, and those with a call that could not be parsed, are left out:
        the format cannot hold them.

        Args:
            path: JSONL file to write; a file that is there is replaced.
            only: returns True for a trajectory to write, for example `lambda t: (t.reward or 0) > 0.8`; all by default.

        Returns:
            The number of examples.
        """
        lines = []
        for trajectory in self.trajectories:
            spoken = [message for message in trajectory.messages if message.role == "assistant"]
            unparsed = any(call.error for message in spoken for call in message.tool_calls)
            if not spoken or unparsed or not (only is None or only(trajectory)):
                continue
            handles = {handle for message in trajectory.messages for handle in message.images}
            urls = {handle: data_uri(without_transparency(self.store.get(handle))) for handle in handles}
            example: dict[str, object] = {"messages": wire_messages(trajectory.messages, urls)}
            if trajectory.tools:
                example["tools"] = trajectory.tools
            lines.append(json.dumps(example, ensure_ascii=False, default=plain))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(path), "".join(f"{line}\n" for line in lines))
        return len(lines)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self.trajectories)

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Trajectory, ...]: ...

    def __getitem__(self, index: int | slice) -> Trajectory | tuple[Trajectory, ...]:
        return self.trajectories[index]

    def __len__(self) -> int:
        return len(self.trajectories)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _row(trajectory: Trajectory, store: ImageStore) -> dict[str, object]:
    def image(handle: str) -> dict[str, object]:
        return {"bytes": encode_image(store.get(handle)), "path": f"{handle}.png"}

    tokens = trajectory.tokens
    ids = {
        "prompt_ids": tokens.prompt_ids if tokens else None,
        "response_ids": tokens.response_ids if tokens else None,
        "mask": tokens.mask if tokens else None,
        "logprobs": tokens.logprobs if tokens else None,
    }
    row = {
        "id": trajectory.id,
        "group_id": trajectory.group_id,
        "messages": [_message(message.to_dict()) for message in trajectory.messages],
        "tools": json.dumps(trajectory.tools, ensure_ascii=False, default=plain),
        "images": [image(handle) for handle in trajectory.images],
        "final_image": image(trajectory.final_image) if trajectory.final_image else None,
        "answer": trajectory.answer,
        "stop_reason": trajectory.stop_reason.value if trajectory.stop_reason else None,
        "error": trajectory.error,
        "turns": len(trajectory.turns),
        "tool_calls": len(trajectory.tool_records),
        "seconds": trajectory.seconds,
        "score": trajectory.score,
        "reward": trajectory.reward,
        "reward_parts": json.dumps(trajectory.reward_parts),
        "metadata": json.dumps(trajectory.metadata, ensure_ascii=False, default=plain),
    }
    return {**encodable(row), **ids}


def _message(message: dict[str, Any]) -> dict[str, object]:
    """Return a message with the same keys in every row."""
    calls = message.get("tool_calls", [])
    return {
        "role": message["role"],
        "content": [{key: part.get(key) for key in ("type", "text", "image")} for part in message["content"]],
        "tool_calls": [
            {"id": call["id"], "name": call["name"], "arguments": json.dumps(call["arguments"], default=plain)}
            for call in calls
        ],
        "tool_call_id": message.get("tool_call_id"),
    }


@lru_cache(maxsize=1)
def _features() -> Features:
    """Return the columns with their types. Without them, a column that is empty in all rows would have none."""
    from datasets import Features, Image, List, Value

    text, number, whole = Value("string"), Value("float64"), Value("int64")
    message = {
        "role": text,
        "content": List({"type": text, "text": text, "image": text}),
        "tool_calls": List({"id": text, "name": text, "arguments": text}),
        "tool_call_id": text,
    }
    columns: dict[str, object] = dict.fromkeys(
        ("id", "group_id", "tools", "answer", "stop_reason", "error", "reward_parts", "metadata"), text
    )
    columns |= dict.fromkeys(("seconds", "score", "reward"), number) | dict.fromkeys(("turns", "tool_calls"), whole)
    columns |= dict.fromkeys(("prompt_ids", "response_ids", "mask"), List(whole)) | {"logprobs": List(number)}
    return Features({**columns, "messages": List(message), "images": List(Image()), "final_image": Image()})
