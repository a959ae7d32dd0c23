"""The attempts of the page Try: each is one chain of an agent, whose steps are told as they happen.

An attempt lives as long as somebody listens: when its page is closed or a person cancels it, its chain is cancelled
with it. Few run at once, and a few wait for their turn. Finished ones are written to a folder in the form of
`agent.run(log_dir=…)`, which the viewer shows like any other run.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentfly.agents import streaming
from agentfly.agents.agent import Agent
from agentfly.agents.edit import PolicyOptions, make_edit_agent, reasons, same_pixels
from agentfly.agents.inputs import conversations, fingerprint
from agentfly.agents.run import RunLog
from agentfly.agents.trajectory import StopReason, Trajectory, plain
from agentfly.errors import AgentFlyError, ConfigError, ImageError, one_line, printable
from agentfly.images import ImageLimits, ImageSource, ImageStore, load_image
from agentfly.redaction import public_url
from agentfly.serving.errors import QueueFull, RequestRefused
from agentfly.viewer.runs.folder import RunFolder, kind_of
from agentfly.viewer.settings import TrySettings

logger = logging.getLogger(__name__)

Told = dict[str, Any]
_MOST_TEXT = 8000  # characters of a text in one message
_RETRY = 10  # seconds
# Seconds beyond the limit of a chain, in which it should have ended by itself.
_GRACE = 30.0


@dataclass(eq=False)
class Attempt:
    """One attempt.

    Attributes:
        id: of the chain's group and task.
        image: handle of the image to edit.
        instruction: in words.
        told: what is still to be told; None at the end.
    """

    id: str
    image: str
    instruction: str
    told: asyncio.Queue[Told | None] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None

    def tell(self, event: str, **values: Any) -> None:
        """Add a message."""
        self.told.put_nowait({"event": event, **values})


class Attempts:
    """The attempts of one viewer. All methods but `keep` and `image` belong to its event loop.

    Args:
        agent: makes the edits; its images are kept in the folder.
        log: of the folder.
        options: from which the agent was made.
        settings: limits.
        on_close: called at the end.
    """

    def __init__(
        self,
        agent: Agent,
        log: RunLog,
        options: PolicyOptions,
        settings: TrySettings,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        limits = replace(agent.settings.limits, wall_clock=min(settings.seconds, agent.settings.limits.wall_clock))
        agent.settings = replace(agent.settings, limits=limits)
        self.agent, self.log, self.options, self.settings = agent, log, options, settings
        self._on_close = on_close
        # Images that may never be used are not written to the folder.
        self._uploads, self._handles = ImageStore(), OrderedDict[str, None]()
        self._lock = threading.Lock()
        self._line: list[Attempt] = []
        self._moved = asyncio.Condition()

    @property
    def folder(self) -> Path:
        """Folder of the finished attempts."""
        return self.log.folder

    def keep(self, source: ImageSource) -> str:
        """Keep an image for attempts to come, and return its handle.

        Args:
            source: bytes of a file, or an image.

        Raises:
            ImageError: it is no image, or too large.
        """
        settings = self.settings
        limits = ImageLimits(max_pixels=settings.max_pixels, max_bytes=settings.upload_bytes, allow_files=False)
        # One at a time: an image takes far more memory while it is decoded.
        with self._lock:
            handle = self._uploads.put(load_image(source, limits))
            self._handles[handle] = None
            self._handles.move_to_end(handle)
            while len(self._handles) > settings.uploads:
                self._uploads.discard(self._handles.popitem(last=False)[0])
        return handle

    def images(self, handle: str) -> ImageStore:
        """Return the store that has an image.

        Raises:
            ImageError: none has it.
        """
        for store in (self._uploads, self.log.images):
            if handle in store:
                return store
        raise ImageError(f"there is no image {handle[:40]!r} any more: upload it again")

    def start(self, image: str, instruction: str) -> Attempt:
        """Start an attempt, or put it into the queue.

        Raises:
            ImageError: the image is not there.
            RequestRefused: the instruction is empty or too long.
            QueueFull: too many wait.
        """
        self.images(image)
        instruction = instruction.strip()
        if not instruction or len(instruction) > self.settings.most_words:
            raise RequestRefused(f"an instruction has 1 to {self.settings.most_words} characters", param="instruction")
        if len(self._line) >= self.settings.at_once + self.settings.waiting:
            raise QueueFull(_RETRY)
        attempt = Attempt(f"try-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}", image, instruction)
        self._line.append(attempt)
        attempt.task = asyncio.create_task(self._work(attempt), name=attempt.id)
        return attempt

    def cancel(self, id_: str) -> None:
        """Cancel an attempt; its last message says so.

        Raises:
            KeyError: none of this id runs or waits.
        """
        attempt = next((attempt for attempt in self._line if attempt.id == id_), None)
        if attempt is None or attempt.task is None:
            raise KeyError(id_)
        attempt.task.cancel()

    async def listen(self, attempt: Attempt) -> AsyncIterator[Told]:
        """Yield the messages of an attempt. Whoever stops listening calls `leave`."""
        while (told := await attempt.told.get()) is not None:
            yield told

    def leave(self, attempt: Attempt) -> None:
        """Cancel an attempt to which nobody listens any more, unless it has ended."""
        if attempt.task is not None:
            attempt.task.cancel()

    async def close(self) -> None:
        """Cancel all attempts, and close agent and folder."""
        tasks = [attempt.task for attempt in self._line if attempt.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE)
        try:
            await self.agent.close()
        finally:
            self.log.close()
            self._on_close()

    async def _work(self, attempt: Attempt) -> None:
        try:
            await self._wait_for_turn(attempt)
            async with asyncio.timeout(self.settings.seconds + _GRACE):
                await self._run(attempt)
        except asyncio.CancelledError:
            attempt.tell("end", stopped="cancelled", error="Cancelled.")
        except TimeoutError:
            attempt.tell("end", stopped="wall_clock", error=f"Stopped after {self.settings.seconds:.0f} s.")
        except Exception as fault:  # the boundary of an attempt: the page must hear of it
            words = one_line(fault)
            if words is None:
                logger.exception("an attempt failed")
                words = f"{type(fault).__name__}: see the log of the viewer"
            attempt.tell("end", stopped="error", error=_public(words))
        finally:
            self._line.remove(attempt)
            attempt.told.put_nowait(None)
            with suppress(asyncio.CancelledError):
                async with self._moved:
                    self._moved.notify_all()

    async def _wait_for_turn(self, attempt: Attempt) -> None:
        """Wait until few enough are before this attempt; those that run have a time limit."""
        before: int | None = None
        async with self._moved:
            while (place := self._line.index(attempt) - self.settings.at_once + 1) > 0:
                if place != before:
                    attempt.tell("queued", place=place)
                    before = place
                await self._moved.wait()

    async def _run(self, attempt: Attempt) -> None:
        image = await asyncio.to_thread(lambda: self.images(attempt.image).get(attempt.image))
        content = [{"type": "image", "image": image}, {"type": "text", "text": f"\n{attempt.instruction}"}]
        conversation = {"id": attempt.id, "messages": [{"role": "user", "content": content}]}
        attempt.tell("begin")
        end = streaming.RunEnd()
        async with aclosing(self.agent.stream(conversation)) as events:
            async for event in events:
                if isinstance(event, streaming.RunEnd):
                    end = event
                elif told := described(event):
                    attempt.told.put_nowait(told)
        if end.result is None:
            raise AgentFlyError(end.error or "the run ended without a result")
        trajectory = end.result[0]
        kept = await self._keep(trajectory, conversation)
        attempt.tell("end", **await asyncio.to_thread(self._outcome, trajectory), kept=kept)

    async def _keep(self, trajectory: Trajectory, conversation: dict[str, Any]) -> bool:
        """Write a chain to the folder, as `agent.run` does; returns False where it cannot be written."""
        if trajectory.stop_reason is StopReason.CANCELLED:
            return False
        prompt = self.agent.system_prompt({"id": conversation["id"]})
        print_ = await asyncio.to_thread(lambda: fingerprint(conversations(conversation)[0], prompt))
        try:
            self.log.resume(trajectory.id, print_)
            await self.log.append(trajectory)
        except OSError as fault:
            logger.warning("an attempt cannot be kept: %s", fault)
            return False
        return True

    def _outcome(self, trajectory: Trajectory) -> Told:
        """Return the result of a chain, with one sentence where it is not as wished."""
        stopped, final, store = trajectory.stop_reason, trajectory.final_image, self.agent.store
        reason = "unknown" if stopped is None else stopped.value
        before = trajectory.images[0] if trajectory.images else None
        error = None
        if stopped is None or stopped.failed:
            error = trajectory.error or f"the agent was stopped ({reason})"
        elif final is None:
            error = f"the agent made no image ({reason}): {reasons(trajectory, self.options)}"
        elif before is not None and same_pixels(store.get(before), store.get(final)):
            error = f"the image is unchanged: {reasons(trajectory, self.options)}"
        return {
            "stopped": reason,
            "error": None if error is None else _public(error),
            "chain": trajectory.id,
            "before": before,
            "after": final,
            # Where the policy says nothing, the answer is the name of its image.
            "answer": "" if trajectory.answer in trajectory.names else _clipped(trajectory.answer),
            "turns": len(trajectory.turns),
            "seconds": round(trajectory.seconds, 2),
        }


def described(event: streaming.Event) -> Told | None:
    """Return an event as a message for the page; None for one that it does not show."""
    match event:
        case streaming.TurnStart(turn=turn):
            return {"event": "turn", "turn": turn}
        case streaming.Delta(turn=turn, text=text):
            return {"event": "delta", "turn": turn, "text": text}
        case streaming.TurnEnd(turn=turn, text=text, seconds=seconds):
            return {"event": "said", "turn": turn, "text": _clipped(text), "seconds": round(seconds, 2)}
        case streaming.ToolStart(turn=turn, call=call, name=name, arguments=arguments):
            words = json.dumps(dict(arguments), ensure_ascii=False, indent=1, default=plain)
            return {"event": "call", "turn": turn, "call": call, "name": name[:200], "arguments": _clipped(words)}
        case streaming.ToolEnd(turn=turn, call=call, seconds=seconds, error=error):
            shown = None if error is None else _public(_clipped(error))
            return {"event": "called", "turn": turn, "call": call, "seconds": round(seconds, 3), "error": shown}
        case streaming.Observation(turn=turn, call=call, text=text, images=images):
            return {"event": "seen", "turn": turn, "call": call, "text": _clipped(text), "images": list(images)}
    return None


def _clipped(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} … ({len(text) - _MOST_TEXT} more)"


def _public(words: str) -> str:
    """Return a message without secrets of addresses, and without characters that are not seen."""
    return printable(public_url(words))


@dataclass(frozen=True)
class Session:
    """The attempts of a viewer, and the run that they make.

    Attributes:
        attempts: of the page Try.
        run: their folder.
        temporary: it is removed at the end.
    """

    attempts: Attempts
    run: RunFolder
    temporary: bool = False


def open_session(options: PolicyOptions, settings: TrySettings, save: Path | None, slug: str) -> Session:
    """Make the agent, after its endpoint has answered, and open the folder of its attempts.

    Args:
        options: of the policy.
        settings: limits.
        save: folder for finished attempts, made where it is missing; None for a temporary one.
        slug: of the run in URLs.

    Raises:
        AgentFlyError: an endpoint or a server does not answer, a key is missing, the folder has another kind of run, or
            another process writes to it.
    """
    temporary = (
        None if save is not None else tempfile.TemporaryDirectory(prefix="agentfly-try-", ignore_cleanup_errors=True)
    )
    folder = Path(temporary.name) / "try" / "attempts" if temporary is not None else Path(save or "").absolute()
    kind = kind_of(folder)
    if kind not in (None, "chains") or folder.is_file():
        found = "a file" if kind is None else f"a run of {kind}"
        raise ConfigError(f"--save {str(folder)!r} is {found}: name a new folder")
    log = RunLog(folder)
    try:
        agent = asyncio.run(make_edit_agent(options, log.images))
    except BaseException:
        log.close()
        raise
    on_close = (lambda: None) if temporary is None else temporary.cleanup
    attempts = Attempts(agent, log, options, settings, on_close)
    return Session(attempts, RunFolder(folder, "chains", slug), temporary is not None)
