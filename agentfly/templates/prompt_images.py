"""The ids of images in a prompt: written by the codec, found again, and taken back to one placeholder for vLLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from PIL import Image

from agentfly.errors import ImageError, TemplateError, first_line
from agentfly.templates.families import Placeholder, Processor, Runs

_CACHED_IMAGES = 65536

LoadImage = Callable[[str], Image.Image]


class PromptImages:
    """The ids of images for one processor.

    Args:
        processor: of the policy.
        placeholder: of its family.

    Attributes:
        mark: text that the template writes for an image.
    """

    def __init__(self, processor: Processor, placeholder: Placeholder) -> None:
        self.mark = str(getattr(processor, placeholder.mark))
        self._processor, self._placeholder = processor, placeholder
        self._runs: dict[tuple[str, int], Runs] = {}

    @cached_property
    def piece_id(self) -> int:
        """Id that stands for a piece of an image."""
        return int(self._processor.tokenizer.convert_tokens_to_ids(self._processor.image_token))

    @cached_property
    def mark_id(self) -> int:
        """Id of the text that the template writes for an image."""
        return int(self._processor.tokenizer.convert_tokens_to_ids(self.mark))

    def runs(self, handle: str, load_image: LoadImage, index: int) -> Runs:
        """Return the ids of an image, as runs.

        Args:
            handle: of the image.
            load_image: returns the image of a handle.
            index: of the image in the conversation.

        Raises:
            ImageError: the processor refuses its shape.
        """
        key = handle, index if self._placeholder.numbered else 0
        if key not in self._runs:
            if len(self._runs) >= _CACHED_IMAGES:
                self._runs.clear()
            image = load_image(handle)
            try:
                self._runs[key] = self._placeholder.ids(self._processor, image, index)
            except (ValueError, ZeroDivisionError) as fault:
                raise ImageError(
                    f"the model cannot be shown an image of {image.width}x{image.height} pixels ({first_line(fault)}): "
                    "crop it, or give it a border"
                ) from fault
        return self._runs[key]

    def ids(self, handle: str, load_image: LoadImage, index: int) -> list[int]:
        """Return the ids of an image; the arguments are those of `runs`."""
        return [token for token, count in self.runs(handle, load_image, index) for _ in range(count)]

    def places(self, ids: Sequence[int], images: Sequence[str], load_image: LoadImage) -> list[tuple[int, int]]:
        """Return the span of each image in the ids of a conversation.

        Args:
            ids: of the conversation.
            images: handles of its images, in order.
            load_image: returns the image of a handle.

        Raises:
            TemplateError: the ids of an image are not where they should be.
        """
        found: list[tuple[int, int]] = []
        for index, handle in enumerate(images):
            start, block = found[-1][1] if found else 0, self.ids(handle, load_image, index)
            first = next((i for i in range(start, len(ids)) if ids[i] == self.piece_id), None)
            begin = -1 if first is None else first - block.index(self.piece_id)
            if begin < start or list(ids[begin : begin + len(block)]) != block:
                raise TemplateError(f"the ids of an image are not in the prompt from id {start} on, where they belong")
            found.append((begin, begin + len(block)))
        return found

    def written(self, text: str) -> str:
        """Return a rendered text with what the processor writes around each image."""
        around = self._placeholder.around
        return text.replace(self.mark, f"{around}{self.mark}{around}") if around else text

    def collapse(self, ids: Sequence[int], images: Sequence[str], load_image: LoadImage) -> list[int]:
        """Return ids with one placeholder for each image; arguments and errors are those of `places`."""
        found: list[int] = []
        start = 0
        for begin, end in self.places(ids, images, load_image):
            found += [*ids[start:begin], self.mark_id]
            start = end
        found += ids[start:]
        return self._without_around(found) if self._placeholder.around else found

    def _without_around(self, ids: Sequence[int]) -> list[int]:
        """Take back what was written around each placeholder: vLLM writes it too, and joins it to its neighbours."""
        tokenizer, around = self._processor.tokenizer, self._placeholder.around
        names: list[str | None] = [None] * len(ids)
        for place in (i for i, token in enumerate(ids) if token == self.mark_id):
            for beside, before in ((place - 1, True), (place + 1, False)):
                known = names[beside]
                name = str(tokenizer.convert_ids_to_tokens(ids[beside])) if known is None else known
                if not (name.endswith(around) if before else name.startswith(around)):
                    raise TemplateError(f"{name!r} stands beside an image instead of {around!r}")
                names[beside] = name.removesuffix(around) if before else name.removeprefix(around)
        return [
            token if name is None else int(tokenizer.convert_tokens_to_ids(name))
            for token, name in zip(ids, names, strict=True)
            if name != ""
        ]
