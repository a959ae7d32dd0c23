"""Draw the images of a trajectory in order, each with the call that made it, as a PNG strip or a GIF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from agentfly.agents.trajectory import Trajectory
from agentfly.errors import ImageError
from agentfly.images import ImageStore
from agentfly.messages import Message, ToolCall

_SIDE = 320
_MARGIN = 10
_FONT_SIZE = 14
_LINE = 18
_CAPTION_LINES = 5
_FRAME_MS = 1400
_LAST_FRAME_MS = 3000
_SUFFIXES = (".png", ".gif")


@dataclass(frozen=True)
class Step:
    """An image, and words for where it came from."""

    caption: str
    image: Image.Image


def steps(trajectory: Trajectory, store: ImageStore) -> list[Step]:
    """The given images, what each call made of them, and the answer."""
    return [Step(caption, store.get(handle)) for caption, handle in _captions(trajectory)]


def _captions(trajectory: Trajectory) -> Iterator[tuple[str, str]]:
    names = {handle: name for name, handle in trajectory.names.items()}
    calls: dict[str, ToolCall] = {}
    last = None
    for message in trajectory.messages:
        calls = {call.id: call for call in message.tool_calls} or calls
        for handle in message.images:
            last = handle
            yield f"{names.get(handle, handle)}: {_origin(message, calls)}", handle
    final = trajectory.final_image
    if final is not None and (trajectory.answered or final != last):
        name = names.get(final, final)
        # Without a description the answer's words are the image's name.
        words = f" ({trajectory.answer})" if trajectory.answer not in ("", name) else ""
        yield f"answer: {name}{words}", final


def _origin(message: Message, calls: dict[str, ToolCall]) -> str:
    call = calls.get(message.tool_call_id or "")
    if message.role != "tool" or call is None:
        return "given"
    return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


def check_steps_path(path: Path) -> None:
    """Refuse a file name that `write_steps` cannot write, before any work is done.

    Raises:
        ImageError: the suffix is neither .png nor .gif.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ImageError(f"{str(path)!r}: the steps are written as a strip (.png) or an animation (.gif)")


def write_steps(shown: Sequence[Step], path: Path) -> Path:
    """Write the steps side by side (.png) or one after the other (.gif).

    Raises:
        ImageError: unknown suffix, no steps, or the file cannot be written.
    """
    check_steps_path(path)
    if not shown:
        raise ImageError("there is no image to show: this trajectory has none")
    small = [_fitted(step.image) for step in shown]
    tallest = max(image.height for image in small)
    frames = [_framed(image, step.caption, tallest) for image, step in zip(small, shown, strict=True)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            _strip(frames).save(path, "PNG")
        else:
            times = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
            frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    except OSError as fault:
        raise ImageError(f"cannot write {str(path)!r}: {fault.strerror or fault}") from fault
    return path


def _strip(frames: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (sum(frame.width for frame in frames), frames[0].height), "white")
    for index, frame in enumerate(frames):
        whole.paste(frame, (index * frame.width, 0))
    return whole


def _fitted(image: Image.Image) -> Image.Image:
    """The image as large as fits into a square."""
    scale = min(_SIDE / image.width, _SIDE / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)


def _framed(image: Image.Image, caption: str, tallest: int) -> Image.Image:
    """The image with its caption below; all frames have one size."""
    frame = Image.new("RGB", (_SIDE + 2 * _MARGIN, tallest + 3 * _MARGIN + _CAPTION_LINES * _LINE), "white")
    frame.paste(image, (_MARGIN + (_SIDE - image.width) // 2, _MARGIN + (tallest - image.height) // 2), image)
    font = ImageFont.load_default(_FONT_SIZE)
    draw = ImageDraw.Draw(frame)
    for number, line in enumerate(_wrapped(caption, font, _SIDE)[:_CAPTION_LINES]):
        draw.text((_MARGIN, tallest + 2 * _MARGIN + number * _LINE), line, "black", font)
    return frame


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of a text, none wider than `width` pixels; a word that is wider is broken."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for char in word:
            if font.getlength(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return lines
