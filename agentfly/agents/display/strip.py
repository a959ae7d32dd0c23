"""Draw the images of a trajectory in order, each with a caption, as a PNG strip or a GIF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from agentfly.agents.trajectory import Trajectory
from agentfly.errors import ImageError
from agentfly.files import written_whole
from agentfly.images import ImageStore
from agentfly.messages import ToolCall

_SIDE = 320
_MARGIN = 17
_FONT_SIZE = 14
_LINE = 18
_CAPTION_GAP = 6
_CAPTION_LINES = 5
_INK, _MUTED = "#1f2933", "#616e7c"
_FRAME_MS = 1400
_LAST_FRAME_MS = 3000
_SUFFIXES = (".png", ".gif")


@dataclass(frozen=True)
class Step:
    """An image and its caption, such as the call that made it."""

    caption: str
    image: Image.Image


def steps(trajectory: Trajectory, store: ImageStore) -> list[Step]:
    """Return the given images, the images that each call made, and the answer, in order.

    Args:
        trajectory: the chain.
        store: the images that it names.

    Raises:
        ImageError: an image is not in the store.
    """
    return [Step(caption, store.get(handle)) for caption, handle in _captions(trajectory)]


def _captions(trajectory: Trajectory) -> Iterator[tuple[str, str]]:
    names = {handle: name for name, handle in trajectory.names.items()}
    calls: dict[str, ToolCall] = {}
    last = None
    for message in trajectory.messages:
        calls = {call.id: call for call in message.tool_calls} or calls
        for handle in message.images:
            last, origin = handle, "given"
            call = calls.get(message.tool_call_id or "")
            if message.role == "tool" and call is not None:
                origin = f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"
            yield f"{names.get(handle, handle)}: {origin}", handle
    final = trajectory.final_image
    if final is not None and (trajectory.answered or final != last):
        name = names.get(final, final)
        # Without a description the text of the answer is the image's name.
        words = f" ({trajectory.answer})" if trajectory.answer not in ("", name) else ""
        yield f"answer: {name}{words}", final


def check_steps_path(path: Path) -> None:
    """Check that `write_steps` can write a file of this name, before any work is done.

    Raises:
        ImageError: the suffix is neither .png nor .gif.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ImageError(f"{str(path)!r}: the steps are written as a strip (.png) or an animation (.gif)")


def write_steps(shown: Sequence[Step], path: Path, *, side: int = _SIDE) -> Path:
    """Write images with their captions, side by side with arrows (.png) or one after the other (.gif).

    Args:
        shown: first to last.
        path: of the file; its folder is made.
        side: of the square, in pixels, that each image is scaled to fit.

    Returns:
        The path.

    Raises:
        ImageError: unknown suffix, no steps, or the file cannot be written.
    """
    check_steps_path(path)
    if not shown:
        raise ImageError("there is no image to show: this trajectory has none")
    frames, middle = _frames(shown, side)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path.resolve()) as partial:
            if path.suffix.lower() == ".png":
                _side_by_side(frames, middle).save(partial, "PNG")
            else:
                times = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
                frames[0].save(partial, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    except OSError as fault:
        raise ImageError(f"cannot write {str(path)!r}: {fault.strerror or fault}") from fault
    return path


def draw_steps(shown: Sequence[Step], side: int = _SIDE) -> Image.Image:
    """Return images with their captions, side by side with arrows.

    Args:
        shown: first to last; at least one.
        side: of the square, in pixels, that each image is scaled to fit.
    """
    return _side_by_side(*_frames(shown, side))


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = min(side / image.width, side / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)


def _frames(shown: Sequence[Step], side: int) -> tuple[list[Image.Image], int]:
    """Return each image on white with its caption below, all of one size, and the pixels down to the images' middle."""
    images = [_fitted(step.image, side) for step in shown]
    tallest = max(image.height for image in images)
    font = ImageFont.load_default(_FONT_SIZE)
    wrapped = [_wrap(step.caption, font, side) for step in shown]
    lines = max(map(len, wrapped))
    size = side + 2 * _MARGIN, tallest + 2 * _MARGIN + (_CAPTION_GAP + lines * _LINE if lines else 0)
    frames = []
    for image, caption in zip(images, wrapped, strict=True):
        frame = Image.new("RGB", size, "white")
        frame.paste(image, (_MARGIN + (side - image.width) // 2, _MARGIN + (tallest - image.height) // 2), image)
        draw = ImageDraw.Draw(frame)
        for number, line in enumerate(caption):
            draw.text((_MARGIN, _MARGIN + tallest + _CAPTION_GAP + number * _LINE), line, _INK, font)
        frames.append(frame)
    return frames, _MARGIN + tallest // 2


def _side_by_side(frames: Sequence[Image.Image], middle: int) -> Image.Image:
    """Return the frames in one row, with an arrow in the margins between neighbours, `middle` pixels from the top."""
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height), "white")
    draw = ImageDraw.Draw(strip)
    for index, frame in enumerate(frames):
        strip.paste(frame, (index * width, 0))
        if index:
            border = index * width
            draw.line([(border - 9, middle), (border + 5, middle)], fill=_MUTED, width=2)
            draw.polygon([(border + 9, middle), (border + 2, middle - 5), (border + 2, middle + 5)], fill=_MUTED)
    return strip


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Return lines no wider than `width` pixels: words that are wider are broken, a longer text ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    if len(lines) > _CAPTION_LINES:
        lines = [*lines[: _CAPTION_LINES - 1], f"{lines[_CAPTION_LINES - 1][:-1]}…"]
    return lines
