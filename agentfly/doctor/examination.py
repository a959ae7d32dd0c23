"""What the doctor examines, and what a check is: a name, a description, a function and a time limit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from agentfly.doctor.findings import Finding
from agentfly.doctor.nvidia import Driver, read_driver
from agentfly.settings import Settings
from agentfly.templates import ChatCodec


def _default_cache() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")


class DoctorRequest(Settings):
    """What to look at. What is not given is not looked at; the machine always is.

    Attributes:
        model: checkpoint folder or hub name; with `base_url` the model's name on the server.
        checkpoint: folder or hub name of what is served, where `model` is not a folder; needs `base_url`.
        template: name or path of the chat template; the checkpoint's own when None.
        base_url: OpenAI-compatible endpoint, up to and including `/v1`.
        nodes: image servers, as `host:port` or as addresses.
        nodes_key_env: environment variable with their key.
        max_model_len: context of the engine in tokens; the endpoint's or the checkpoint's own when None.
        out: folder that runs are written to.
        cache: folder that models are downloaded to.
    """

    written_as: ClassVar[str] = "--"

    model: str | None = None
    checkpoint: str | None = None
    template: str | None = None
    base_url: str | None = Field(None, pattern=r"^https?://.")
    nodes: tuple[str, ...] = ()
    nodes_key_env: str | None = None
    max_model_len: int | None = Field(None, ge=1)
    out: Path = Path("runs")
    cache: Path = Field(default_factory=_default_cache)

    @property
    def source(self) -> str | None:
        """Where the checkpoint is to be loaded from; None where only its name on a server is known."""
        if self.checkpoint is not None or self.base_url is None:
            return self.checkpoint or self.model
        return self.model if self.model is not None and Path(self.model).is_dir() else None


class Examination:
    """What the checks of one diagnosis share.

    Attributes:
        request: what to look at.
        codec: the model's processor and template; None until the check `checkpoint` has loaded them.
        context: tokens that the checkpoint has positions for; None before that.
        served: name of the model to ask the endpoint for; None until the check `endpoint` has seen it.
        engine_context: tokens that the endpoint says it takes; None where it does not say.
    """

    def __init__(self, request: DoctorRequest) -> None:
        self.request = request
        self.codec: ChatCodec | None = None
        self.context: int | None = None
        self.served: str | None = None
        self.engine_context: int | None = None
        self._lock = threading.Lock()

    @property
    def driver(self) -> Driver:
        """The GPUs as their driver sees them, asked once."""
        with self._lock:
            return self._driver

    @cached_property
    def _driver(self) -> Driver:
        return read_driver()


@dataclass(frozen=True)
class Check:
    """One thing that is looked at.

    Attributes:
        name: unique.
        theme: heading that it stands under.
        about: what it looks at, in a few words.
        run: looks, and says what it saw; what it raises is a finding, too.
        needs: name of a check without which this one makes no sense; it is skipped unless that one passed.
        seconds: time limit.
    """

    name: str
    theme: str
    about: str
    run: Callable[[Examination], Iterable[Finding]]
    needs: str | None = None
    seconds: float = 15.0


@dataclass(frozen=True)
class Outcome:
    """What one check said, and how long it took."""

    check: Check
    findings: tuple[Finding, ...]
    seconds: float
