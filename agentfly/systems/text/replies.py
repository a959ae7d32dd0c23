"""Collect a model's answer from its pieces, write it to a file as it comes, and read it.

A file has its final name while it grows and when it is complete; an answer that broke off is left as `NAME.partial`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TextIO

from agentfly.errors import BackendError, ConfigError
from agentfly.messages import without_thoughts
from agentfly.systems.text.model import BaseModel, ChatMessage

logger = logging.getLogger(__name__)

_FENCE = re.compile(r"^```[\w+-]*[ \t]*\n(?P<code>.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


async def gather(model: BaseModel, messages: Sequence[ChatMessage], file: Path | None = None, **kwargs: Any) -> str:
    """The whole answer of a model; an answer that broke off is begun anew, as often as the model allows.

    Args:
        model: answers.
        messages: the conversation.
        file: grows as the answer comes; its folder is made.
        kwargs: see `BaseModel.call_stream`.

    Raises:
        BackendError: no whole answer came.
        ConfigError: the file cannot be written.
    """
    with _growing(file) as sheet:
        for left in range(model.restarts, -1, -1):
            pieces: list[str] = []
            try:
                async with aclosing(model.call_stream(messages, **kwargs)) as stream:
                    async for piece in stream:
                        pieces.append(piece)
                        if sheet is not None:
                            sheet.write(piece)
                            sheet.flush()
                break
            except BackendError as fault:
                # Before the first piece the backend has tried again already.
                if not (pieces and fault.retryable and left):
                    raise
                logger.warning("an answer broke off after %d pieces (%s); it is begun anew", len(pieces), fault)
                if sheet is not None:
                    sheet.seek(0)
                    sheet.truncate()
        return "".join(pieces)


def partial(file: Path) -> Path:
    """Where the beginning of an answer that broke off is left."""
    return file.with_name(f"{file.name}.partial")


def code_of(text: str) -> str:
    """The longest fenced block of an answer, or the answer itself where it has none; reasoning left out."""
    answer = without_thoughts(text)
    blocks = [match["code"] for match in _FENCE.finditer(answer)]
    return max(blocks, key=len).strip() if blocks else answer


def make_folder(folder: str | Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        ConfigError: it cannot be made.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"cannot make the folder {str(path)!r} ({fault.strerror}): give another one") from fault
    return path


@contextmanager
def _growing(file: Path | None) -> Iterator[TextIO | None]:
    if file is None:
        yield None
        return
    make_folder(file.parent)
    try:
        sheet = file.open("w", encoding="utf-8")
    except OSError as fault:
        raise ConfigError(f"cannot write {str(file)!r} ({fault.strerror}): give another file") from fault
    # What an earlier run left is not of this one.
    partial(file).unlink(missing_ok=True)
    try:
        with sheet:
            yield sheet
    except BaseException:
        if file.stat().st_size:
            file.replace(partial(file))
        else:
            file.unlink()
        raise
