"""The context of one tool call, after whose end its images get no names.

A thread goes on when its call is given up. Its image would take the name that the image of the next call is to have.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from agentfly.errors import ImageError

_CALL: ContextVar[tuple[object, threading.Event] | None] = ContextVar("agentfly_tool_call", default=None)


@contextmanager
def in_tool_call(view: object) -> Iterator[None]:
    """Be the context of one tool call, and of the threads and tasks that begin in it.

    Args:
        view: the images of the chain.
    """
    ended = threading.Event()
    token = _CALL.set((view, ended))
    try:
        yield
    finally:
        _CALL.reset(token)
        ended.set()


def check_call_goes_on(view: object) -> None:
    """Raise `ImageError` in the context of a call on this view that has ended."""
    call = _CALL.get()
    if call is not None and call[0] is view and call[1].is_set():
        raise ImageError("the call that adds this image has ended, by its time limit or by an error")
