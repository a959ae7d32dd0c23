"""Turn a conversation into ids, labels and images: the tokens and masks of the rollout, by the rollout's own codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.errors import DatasetError
from agentfly.images import on_white
from agentfly.messages import Message
from agentfly.templates import ChatCodec

IGNORED = -100  # label of ids that carry no loss (PyTorch's cross entropy default)

LoadImage = Callable[[str], Image.Image]
Schemas = Sequence[Mapping[str, object]]
Ids = NDArray[np.int32]
Pixels = NDArray[np.float32]
Grids = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Example:
    """A conversation, ready for a model.

    Attributes:
        ids: all ids, placeholders expanded.
        labels: the id where it carries loss, else `IGNORED`. Same length.
        pixels: patches of all images, shape (patches, channels × time × side²), float32.
        grids: (time, rows, columns) of patches for each image.
    """

    ids: Sequence[int] | Ids
    labels: Sequence[int] | Ids
    pixels: Pixels
    grids: Grids

    @property
    def labelled(self) -> int:
        """Number of ids that carry loss."""
        return int(np.count_nonzero(np.asarray(self.labels) != IGNORED))

    def load(self) -> Example:
        """Return this example; see `Trainable`."""
        return self


class Trainable(Protocol):
    """Example for the training loop: its ids are there at once, its pixels when they are needed."""

    @property
    def ids(self) -> Sequence[int] | Ids:
        """All ids."""

    @property
    def labelled(self) -> int:
        """Number of ids that carry loss."""

    def load(self) -> Example:
        """Return the example with its pixels."""


class Trainables(Protocol):
    """Examples that the training loop draws from by their index, such as a list of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Trainable: ...


@dataclass(frozen=True)
class Sample:
    """A conversation whose images stay in their store until a step needs them.

    Attributes:
        ids: as in `Example`, int32.
        labels: as in `Example`, int32.
        images: handles in the order of the placeholders.
        codec: makes the pixels.
        load_image: loads the image of a handle.
        task: key of the task; samples of one task are on one side of the held-out split.
    """

    ids: Ids
    labels: Ids
    images: tuple[str, ...]
    codec: ChatCodec = field(repr=False, compare=False)
    load_image: LoadImage = field(repr=False, compare=False)
    task: str = ""

    @property
    def labelled(self) -> int:
        """Number of ids that carry loss."""
        return int(np.count_nonzero(self.labels != IGNORED))

    def load(self) -> Example:
        """Return the sample with the pixels of its images."""
        pixels, grids = pixels_of(self.codec, [self.load_image(handle) for handle in self.images])
        return Example(self.ids, self.labels, pixels, grids)

    def cut(self, limit: int) -> Sample | None:
        """Return the sample up to the last turn that ends within `limit` ids; None if no turn does."""
        graded = self.labels != IGNORED
        ends = np.flatnonzero(graded & ~np.append(graded[1:], False)) + 1
        fitting = ends[ends <= limit]
        if not fitting.size:
            return None
        end = int(fitting[-1])
        seen = len(self.codec.image_runs(self.ids[:end].tolist()))
        return replace(self, ids=self.ids[:end], labels=self.labels[:end], images=self.images[:seen])


def ending_with(ids: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """Return ids without the end token, and labels with loss on the last ones alone.

    Args:
        ids: of a conversation that ends with the end token.
        count: ids with loss.
    """
    kept = list(ids[:-1])
    return kept, [IGNORED] * (len(kept) - count) + kept[-count:]


def conversation_ids(
    messages: Sequence[Message],
    tools: Schemas,
    codec: ChatCodec,
    load_image: LoadImage,
    turn_texts: Sequence[str],
    graded: Sequence[bool] | None = None,
) -> tuple[list[int], list[int], list[str]]:
    """Return ids, labels and image handles of a conversation, up to the end of its last turn.

    Args:
        messages: the last `len(turn_texts)` messages of the assistant are the turns; those before belong to the prompt.
        tools: schemas in the prompt.
        codec: of the policy.
        load_image: loads the image of a handle.
        turn_texts: text of each turn as it is to be sampled, calls included.
        graded: True for each turn that carries loss; all of them when None.

    Raises:
        DatasetError: there is no turn, or two turns follow each other.
    """
    starts = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not turn_texts or len(starts) < len(turn_texts):
        raise DatasetError(f"{len(starts)} messages of the assistant for {len(turn_texts)} turns to learn from")
    starts = starts[len(starts) - len(turn_texts) :]
    ids = codec.prompt_ids(messages[: starts[0]], tools, load_image)
    labels = [IGNORED] * len(ids)
    for turn, (start, text) in enumerate(zip(starts, turn_texts, strict=True)):
        sampled, more = [*codec.tokenizer(text, add_special_tokens=False)["input_ids"]], list[int]()
        if turn + 1 < len(starts):
            following = messages[start + 1 : starts[turn + 1]]
            if not following:
                raise DatasetError(
                    "two messages of the assistant follow each other: join them, or add the message between"
                )
            before = sum(len(message.images) for message in messages[:start])
            more = codec.continuation_ids(following, tools, load_image, ended_by=None, images_before=before)
        # A turn ends with the token that the template writes there, which may begin the next message.
        ends = [more.pop(0)] if more and more[0] in codec.eos_ids else [codec.end_id]
        sampled += ends
        ids += [*sampled, *more]
        labels += sampled if graded is None or graded[turn] else [IGNORED] * len(sampled)
        labels += [IGNORED] * len(more)
    return ids, labels, [handle for message in messages[: starts[-1]] for handle in message.images]


def pixels_of(codec: ChatCodec, images: Sequence[Image.Image]) -> tuple[Pixels, Grids]:
    """Return the pixels and the grids of images; see `Example`.

    Args:
        codec: of the model, whose image processor is used.
        images: in the order of the placeholders.
    """
    if not images:
        return np.zeros((0, 0), np.float32), ()
    batch = codec.processor.image_processor(images=[on_white(image) for image in images], return_tensors="np")
    grids = tuple((int(t), int(h), int(w)) for t, h, w in batch["image_grid_thw"])
    return np.asarray(batch["pixel_values"], np.float32), grids
