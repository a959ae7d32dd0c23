"""Collect a model's answer from its pieces, and write it to a file as it comes.

A file has its final name while it grows and when it is complete; an answer that broke off is left as `NAME.partial`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TextIO

from agentfly.errors import BackendError, ConfigError
from agentfly.systems.text.model import BaseModel, ChatMessage

logger = logging.getLogger(__name__)


async def gather(model: BaseModel, messages: Sequence[ChatMessage], file: Path | None = None, **kwargs: object) -> str:
    """Return the whole answer of a model; an answer that broke off is requested anew, as often as the model allows.

    Args:
        model: gives the answer.
        messages: the conversation.
        file: file that grows as the answer comes; its folder is made. None writes none.
        kwargs: see `BaseModel.call_stream`.

    Raises:
        BackendError: the model gave no whole answer.
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
    """Return the path at which the beginning of an answer that broke off is left."""
    return file.with_name(f"{file.name}.partial")


def make_folder(folder: str | Path) -> Path:
    """Make a folder if it is missing, and return it.

    Raises:
        ConfigError: the folder cannot be made.
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
        # A sampled text can hold half a surrogate pair, which UTF-8 cannot carry.
        sheet = file.open("w", encoding="utf-8", errors="replace")
    except OSError as fault:
        raise ConfigError(f"cannot write {str(file)!r} ({fault.strerror}): give another file") from fault
    # A file that an earlier run left must not pass for one of this run.
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
