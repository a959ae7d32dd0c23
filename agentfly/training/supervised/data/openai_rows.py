"""Read conversations in OpenAI's JSONL form: `messages`, `tools`, images as data URIs or files.

A message of the assistant with `"weight": 0` is context: it carries no loss (as in OpenAI's fine-tuning files,
https://platform.openai.com/docs/guides/supervised-fine-tuning).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from agentfly.errors import AgentFlyError, DatasetError
from agentfly.images import ImageSource, ImageStore, load_image
from agentfly.messages import from_openai
from agentfly.templates import ChatCodec
from agentfly.training.supervised.data.examples import Sample, conversation_ids
from agentfly.training.supervised.data.splits import task_key


def openai_samples(path: Path, codec: ChatCodec, store: ImageStore) -> Iterator[Sample]:
    """Yield the samples of a file.

    Args:
        path: one JSON object a line.
        codec: of the model.
        store: gets the images.

    Raises:
        DatasetError: a line cannot be used; the message names it and says why.
    """
    try:
        lines = path.open(encoding="utf-8")
    except OSError as fault:
        raise DatasetError(f"{path} cannot be read: {fault.strerror}") from fault
    with lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield _sample(json.loads(line), path.parent, codec, store)
                except (AgentFlyError, ValueError) as fault:
                    raise DatasetError(f"{path}, line {number}: {fault}") from fault


def _sample(row: object, folder: Path, codec: ChatCodec, store: ImageStore) -> Sample:
    """Return a sample of a row; its images are data URIs, or files in the folder."""
    if not isinstance(row, Mapping) or not isinstance(row.get("messages"), list):
        raise DatasetError("a line is an object with a list of 'messages'")

    def store_image(source: ImageSource) -> str:
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            raise DatasetError("images are data URIs or files here: download them first, and name the files")
        if isinstance(source, (str, os.PathLike)) and not str(source).startswith("data:"):
            source = folder / str(source).removeprefix("file://")
        return store.put(load_image(source))

    messages = [from_openai(message, store_image) for message in row["messages"]]
    spoken = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not spoken or spoken[0] == 0:
        raise DatasetError("the assistant must speak at least once, and not first")
    broken = [call.error for message in messages for call in message.tool_calls if call.error]
    if broken:
        raise DatasetError(f"a tool call cannot be learned: {broken[0]}")
    graded = [row["messages"][i].get("weight", 1) != 0 for i in spoken]
    texts, tools = [codec.turn_text(messages[i]) for i in spoken], row.get("tools") or []
    ids, labels, images = conversation_ids(messages, tools, codec, store.get, texts, graded)
    return Sample(
        np.array(ids, np.int32),
        np.array(labels, np.int32),
        tuple(images),
        codec,
        store.get,
        task_key(messages[: spoken[0]]),
    )
