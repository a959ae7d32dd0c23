"""A protocol as the settings of a run name it: the spec of its evaluator, its data, and what binds results to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from agentfly.errors import ConfigError
from agentfly.evaluation.protocols.base import JudgedProtocol, MeasuredProtocol, Protocol
from agentfly.evaluation.protocols.judged import judge_settings
from agentfly.evaluation.protocols.prompts import read_prompts
from agentfly.evaluation.protocols.registry import find_protocol, find_split
from agentfly.evaluators.judge.settings import JudgeSettings
from agentfly.settings import Settings

_JUDGED = "agentfly.evaluation.protocols.judged:ProtocolJudge"
_MEASURED = "agentfly.evaluation.protocols.measured:ProtocolMeasures"


class ProtocolData(TypedDict):
    """Arguments of `agentfly.datasets.load_tasks`."""

    data: str
    split: str | None
    options: dict[str, Any]


class BoundProtocol(NamedTuple):
    """A protocol, and what binds results to it: see `ProtocolChoice.identity`."""

    protocol: Protocol
    identity: Mapping[str, object]
    asked: JudgeSettings | None = None

    def judge(self) -> JudgeSettings:
        """Return how the judge is asked.

        Raises:
            ConfigError: the protocol has none.
        """
        if self.asked is None:
            raise ConfigError(f"{self.protocol.name} is measured, not judged")
        return self.asked


class ProtocolChoice(Settings):
    """A protocol and what people say about it.

    Attributes:
        name: of the protocol.
        split: of the benchmark, in the protocol's words; None for its default.
        root: folder with the authors' prompts; None downloads them.
        judge: see `judge_settings`; only for a protocol that judges.
        options: arguments of `ProtocolMeasures`; only for a protocol that measures.
    """

    name: str
    split: str | None = None
    root: Path | None = None
    judge: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = {}

    @property
    def protocol(self) -> Protocol:
        """The protocol itself.

        Raises:
            ConfigError: there is no such protocol.
        """
        return find_protocol(self.name)

    def data(self) -> ProtocolData:
        """Return the benchmark's data.

        Raises:
            ConfigError: there is no such protocol or split.
        """
        _, split = find_split(self.protocol, self.split)
        return {"data": self.protocol.data, "split": split.data, "options": dict(split.options)}

    def spec(self) -> dict[str, object]:
        """Return the spec of the evaluator, for `make_evaluator`.

        Raises:
            ConfigError: the protocol is unknown, or does not take what was given for it.
        """
        protocol = self.protocol
        if isinstance(protocol, JudgedProtocol):
            if self.options:
                raise ConfigError(f"--protocol-options: {self.name} has none; give --judge")
            judge_settings(protocol, self.judge)
            root = None if self.root is None else str(self.root)
            return {"evaluator": _JUDGED, "protocol": self.name, "split": self.split, "root": root, "judge": self.judge}
        if self.judge is not None or self.root is not None:
            raise ConfigError(f"{self.name} is measured, not judged: leave --judge and --protocol-root out")
        return {"evaluator": _MEASURED, "protocol": self.name, **self.options}

    def identity(self) -> dict[str, object]:
        """Return what binds results together, JSON-able: the judge as it is asked, or the models, and the prompts.

        Raises:
            ConfigError: see `spec`; or the prompts cannot be read.
        """
        protocol, (split, _) = self.protocol, find_split(self.protocol, self.split)
        found: dict[str, object] = {"protocol": self.name, "split": split}
        if isinstance(protocol, JudgedProtocol):
            asked = judge_settings(protocol, self.judge)
            found |= {
                "judge": asked.model_dump(mode="json", include={"model", "base_url", "temperature", "max_tokens"})
            }
            prompts = read_prompts(protocol, split, self.root)
            found |= {"prompts": prompts.digest, "prompts_from": prompts.source}
        elif isinstance(protocol, MeasuredProtocol):
            found |= {"models": dict(protocol.models), "metrics": list(protocol.metrics), **self.options}
        return found

    def bound(self) -> BoundProtocol:
        """Return the protocol with its identity; raises as `identity` does."""
        protocol = self.protocol
        asked = judge_settings(protocol, self.judge) if isinstance(protocol, JudgedProtocol) else None
        return BoundProtocol(protocol, self.identity(), asked)
