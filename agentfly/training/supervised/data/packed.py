"""Pack examples into a few arrays: each image once, as the 8-bit values that the processor would normalise.

A processor's own output has every value in four bytes and for two frames: 7,800 examples of the quickstart took 6.8 GB
that way. Here an image of 84 x 84 takes 21 kB, however many examples show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.images import on_white
from agentfly.training.supervised.data.examples import IGNORED, Example, Pixels
from agentfly.training.supervised.data.examples import Ids as Ints

if TYPE_CHECKING:
    from transformers import Qwen2VLImageProcessor

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Scaling:
    """Conversion of 8-bit patches to the input of a Qwen-VL model, equal to its processor's.

    Attributes:
        mean: of each channel, on the scale 0 to 1.
        std: of each channel, on the same scale.
        frames: number of times that a still image is repeated (`temporal_patch_size`).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    frames: int

    @classmethod
    def of(cls, image_processor: Qwen2VLImageProcessor) -> Scaling:
        """Return the conversion of a processor."""
        return cls(
            tuple(image_processor.image_mean), tuple(image_processor.image_std), image_processor.temporal_patch_size
        )

    def patches(self, image_processor: Qwen2VLImageProcessor, images: Sequence[Image.Image]) -> Bytes:
        """Resize images and cut them into patches.

        Args:
            image_processor: of a Qwen-VL model.
            images: all of one size after resizing.

        Returns:
            8-bit values of shape (images, patches, channels x side x side).
        """
        rgb = [on_white(image) for image in images]
        batch = image_processor(images=rgb, do_rescale=False, do_normalize=False, return_tensors="np")
        values = np.asarray(batch["pixel_values"])
        still = values.reshape(len(values), len(self.mean), self.frames, -1)[:, :, 0]
        return still.astype(np.uint8).reshape(len(rgb), len(values) // len(rgb), -1)

    def pixels(self, patches: Bytes) -> Pixels:
        """Return the processor's output for patches of shape (count, channels x side x side)."""
        channels = len(self.mean)
        values = patches.reshape(len(patches), channels, 1, patches.shape[1] // channels).astype(np.float32)
        mean, std = (255 * np.asarray(of, np.float32).reshape(1, -1, 1, 1) for of in (self.mean, self.std))
        return np.repeat((values - mean) / std, self.frames, axis=2).reshape(
            len(patches), self.frames * patches.shape[1]
        )


@dataclass(frozen=True)
class PackedExamples:
    """Examples whose images are all square and equally large; see `Trainables`.

    Attributes:
        ids: of all examples, one after another.
        labels: as long; `IGNORED` where there is no loss.
        ends: end of each example in `ids`.
        images: 8-bit patches, shape (images, patches, values).
        shown: indices into `images`, in the order of the placeholders.
        shown_ends: end of each example in `shown`.
        grid: (time, rows, columns) of patches of every image.
        scaling: see `Scaling`.
    """

    ids: Ints
    labels: Ints
    ends: Ints
    images: Bytes
    shown: Ints
    shown_ends: Ints
    grid: tuple[int, int, int]
    scaling: Scaling

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int, /) -> PackedExample:
        """Return one example; negative indices and slices are not supported."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return PackedExample(self, index)

    def span(self, ends: Ints, index: int) -> slice:
        """Return the span of an example in `ids` or in `shown`.

        Args:
            ends: `ends` or `shown_ends`.
            index: of the example.
        """
        return slice(int(ends[index - 1]) if index else 0, int(ends[index]))

    def save(self, path: Path) -> None:
        """Write the examples to a .npz file, which `load` reads."""
        arrays = {name: getattr(self, name) for name in ("ids", "labels", "ends", "images", "shown", "shown_ends")}
        scaling = np.asarray([*self.scaling.mean, *self.scaling.std, self.scaling.frames])
        with path.open("wb") as file:
            np.savez(file, grid=np.asarray(self.grid), scaling=scaling, **arrays)

    @classmethod
    def load(cls, path: Path) -> PackedExamples:
        """Read a file that `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        time, rows, columns = (int(size) for size in found.pop("grid"))
        *channels, frames = (float(value) for value in found.pop("scaling"))
        mean, std = channels[: len(channels) // 2], channels[len(channels) // 2 :]
        return cls(**found, grid=(time, rows, columns), scaling=Scaling(tuple(mean), tuple(std), int(frames)))


@dataclass(frozen=True)
class PackedExample:
    """One example of a pack; see `Trainable`."""

    pack: PackedExamples
    index: int

    @property
    def ids(self) -> Ints:
        """All ids."""
        return self.pack.ids[self.pack.span(self.pack.ends, self.index)]

    @property
    def labels(self) -> Ints:
        """Labels, as long as the ids."""
        return self.pack.labels[self.pack.span(self.pack.ends, self.index)]

    @property
    def labelled(self) -> int:
        """Number of ids that carry loss."""
        return int(np.count_nonzero(self.labels != IGNORED))

    def load(self) -> Example:
        """Return the example with its pixels."""
        shown = self.pack.shown[self.pack.span(self.pack.shown_ends, self.index)]
        patches = self.pack.images[shown].reshape(-1, self.pack.images.shape[2])
        return Example(self.ids, self.labels, self.pack.scaling.pixels(patches), (self.pack.grid,) * len(shown))


class Packer:
    """Builder of packed examples, which are added one by one.

    Args:
        image_processor: of a Qwen-VL model; the images are square and become equally large.
    """

    def __init__(self, image_processor: Qwen2VLImageProcessor) -> None:
        self._processor = image_processor
        self._scaling = Scaling.of(image_processor)
        self._places: dict[str, int] = {}
        self._images: list[Bytes] = []
        self._ids: list[Sequence[int]] = []
        self._labels: list[Sequence[int]] = []
        self._shown: list[list[int]] = []

    def add_images(self, images: Mapping[str, Image.Image]) -> None:
        """Add images by their handles; a handle that is already there is not added again."""
        new = {handle: image for handle, image in images.items() if handle not in self._places}
        if new:
            self._images.append(self._scaling.patches(self._processor, list(new.values())))
            self._places |= {handle: len(self._places) + index for index, handle in enumerate(new)}

    def add(self, ids: Sequence[int], labels: Sequence[int], handles: Iterable[str]) -> None:
        """Add an example.

        Args:
            ids: of the example.
            labels: as long.
            handles: of its images, which were added before, in the order of the placeholders.
        """
        self._ids.append(ids)
        self._labels.append(labels)
        self._shown.append([self._places[handle] for handle in handles])

    def packed(self) -> PackedExamples:
        """Return everything that was added."""
        side = math.isqrt(self._images[0].shape[1])
        return PackedExamples(
            _joined(self._ids),
            _joined(self._labels),
            _ends(self._ids),
            np.concatenate(self._images),
            _joined(self._shown),
            _ends(self._shown),
            (1, side, side),
            self._scaling,
        )


def _joined(parts: Iterable[Sequence[int]]) -> Ints:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def _ends(parts: Iterable[Sequence[int]]) -> Ints:
    return np.cumsum([len(part) for part in parts], dtype=np.int32)
