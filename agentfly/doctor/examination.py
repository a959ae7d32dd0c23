"""The request of an examination, the state that its checks share, and the form of a check."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from agentfly.agents.spec import Named
from agentfly.doctor.findings import Finding
from agentfly.doctor.nvidia import Driver, read_driver
from agentfly.settings import BaseUrl, Settings
from agentfly.templates import ChatCodec


class DoctorRequest(Settings):
    """The objects to examine. The machine is always examined; model, endpoint and servers only if they are given.

    Attributes:
        model: checkpoint folder or hub name; with `base_url` the model's name on the server.
        checkpoint: folder or hub name of the served checkpoint, where `model` is not a folder; needs `base_url`.
        template: name or path of the chat template; by default the checkpoint's own.
        base_url: OpenAI-compatible endpoint, up to and including `/v1`.
        nodes: image servers, as `host:port` or as addresses.
        nodes_key_env: environment variable with the key of the servers.
        agent, tools: see `agentfly.agents.spec`; what the policy's card names when None.
        max_model_len: context of the engine in tokens; by default the endpoint's or the checkpoint's own.
        out: folder of runs.
        cache: folder of downloaded models.
    """

    written_as: ClassVar[str] = "--"

    model: str | None = None
    checkpoint: str | None = None
    template: str | None = None
    base_url: BaseUrl | None = None
    nodes: tuple[str, ...] = ()
    nodes_key_env: str | None = None
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    max_model_len: int | None = Field(None, ge=1)
    out: Path = Path("runs")
    cache: Path = Field(
        default_factory=lambda: Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    )

    @property
    def source(self) -> str | None:
        """Folder or hub name of the checkpoint; None where only its name on a server is known."""
        if self.checkpoint is not None or self.base_url is None:
            return self.checkpoint or self.model
        return self.model if self.model is not None and Path(self.model).is_dir() else None


class Examination:
    """The state that the checks of one examination share.

    Attributes:
        request: the objects to examine.
        codec: processor and template of the model; None until the check `checkpoint` has loaded them.
        context: number of the checkpoint's positions; None until then.
        served: name of the model on the endpoint; None until the check `endpoint` has seen it.
        engine_context: context of the endpoint in tokens; None where it does not report one.
    """

    def __init__(self, request: DoctorRequest) -> None:
        self.request = request
        self.codec: ChatCodec | None = None
        self.context: int | None = None
        self.served: str | None = None
        self.engine_context: int | None = None
        self._lock = threading.Lock()
        self._driver: Driver | None = None

    @property
    def driver(self) -> Driver:
        """The GPUs as their driver reports them, queried once."""
        with self._lock:
            if self._driver is None:
                self._driver = read_driver()
            return self._driver


@dataclass(frozen=True)
class Check:
    """A check of one subject.

    Attributes:
        name: unique.
        theme: heading in the report.
        about: the subject in a few words.
        run: returns the findings; an exception becomes a finding too.
        needs: name of a check that must pass first; this one is skipped otherwise.
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
    """The findings of one check, and the seconds that it took."""

    check: Check
    findings: tuple[Finding, ...]
    seconds: float
