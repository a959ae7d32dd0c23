"""The settings of `agentfly eval`, from the command line or a YAML file whose keys are the options.

A key of a service is never a setting: a setting names its environment variable (`api_key_env`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pydantic import Field, field_validator

from agentfly.agents.spec import IMAGE_EDITING, Named
from agentfly.errors import ConfigError
from agentfly.evaluation.protocols.spec import ProtocolChoice
from agentfly.evaluation.scoring import Given, Spec, read_judge, read_specs
from agentfly.files import read_mapping
from agentfly.redaction import public_settings, secret_entries
from agentfly.settings import OutputPath, Settings
from agentfly.vision.factory import read_engines
from agentfly.vision.remote.settings import NodeSettings, read_nodes

# Settings for the speed, the place and the extent of a run: they may change from start to start.
_NOT_IDENTITY = frozenset(("out", "concurrency", "gallery", "retry_failed", "limit", "root", "repeats"))
# Settings that `ProtocolChoice.identity` stands for.
_OF_PROTOCOL = frozenset(("protocol", "protocol_root", "protocol_options", "judge"))


class ScoringSettings(Settings):
    """The settings that an evaluation and a replay have in common.

    Attributes:
        evaluator: specs of evaluators, the headline first; see `agentfly.evaluation.scoring`.
        split, seed, root, data_options: of the data set.
        limit: tasks at most.
        engine: engine behind the tools, by name or as a mapping of engines.
        concurrency: tasks at the same time.
        gallery: tasks in the gallery at most, worst first; 0 for no gallery.
        protocol: name of a benchmark's protocol, the first evaluator; see `agentfly.evaluation.protocols`. `split` is
            then one of its splits.
        protocol_root: folder with the prompts of its authors; None downloads them.
        protocol_options: arguments of `agentfly.evaluation.protocols.measured.ProtocolMeasures`.
        judge: of the protocol, where it is not that of its authors; see `agentfly.evaluation.scoring.read_judge`.
    """

    written_as: ClassVar[str] = "--"

    evaluator: tuple[Given, ...] = ()
    split: str | None = None
    limit: int | None = Field(None, ge=1)
    seed: int = 0
    root: Path | None = None
    data_options: Mapping[str, Any] = Field(default_factory=dict)
    engine: str | Mapping[str, object] | None = None
    concurrency: int = Field(8, ge=1)
    gallery: int = Field(200, ge=0)
    protocol: str | None = None
    protocol_root: Path | None = None
    protocol_options: Mapping[str, Any] = Field(default_factory=dict)
    judge: Given | None = None

    @field_validator("evaluator", mode="before")
    @classmethod
    def _one_or_many(cls, given: object) -> object:
        return (given,) if isinstance(given, (str, Mapping)) else given

    @property
    def protocol_choice(self) -> ProtocolChoice | None:
        """The protocol with what was said about it; None for none.

        Raises:
            ConfigError: a setting of a protocol was given, and no protocol.
        """
        if self.protocol is None:
            if self.judge is not None or self.protocol_root is not None or self.protocol_options:
                raise ConfigError("--judge, --protocol-root and --protocol-options belong to a --protocol: name one")
            return None
        return ProtocolChoice(
            name=self.protocol,
            split=self.split,
            root=self.protocol_root,
            judge=None if self.judge is None else read_judge(self.judge),
            options=self.protocol_options,
        )

    @property
    def specs(self) -> dict[str, Spec]:
        """The evaluators by label, with files read; that of a protocol is the first."""
        choice = self.protocol_choice
        first = () if choice is None else ({"name": choice.name, **choice.spec()},)
        return read_specs((*first, *self.evaluator))


class TaskSource(NamedTuple):
    """Arguments of `agentfly.datasets.load_tasks`."""

    data: str
    split: str | None
    options: dict[str, Any]


class EvaluationSettings(ScoringSettings):
    """The settings of an evaluation: agent × data set × evaluators.

    Attributes:
        data: name of a data set or path, as in `agentfly.datasets.load_tasks`; a protocol has its own.
        out: folder of the run; an unfinished run there is resumed.
        agent: "image-editing", "refinement-loop", "director-generator", "module:name", or a mapping of that and its
            arguments; see `agentfly.agents.spec`.
        tools: see `agentfly.agents.user_tools`; the agent's own when None.
        reward: "module:function" with `@reward`, scored as the first evaluator; None for none.
        model: policy folder, hub name, or the endpoint's model name.
        base_url: OpenAI-compatible endpoint; without it vLLM runs in this process.
        template: chat template; by default the checkpoint's own.
        client_nodes: image servers as "host:port", or as mappings of the fields of
            `agentfly.vision.remote.NodeConfig`; `engine` does the operations that none of them offers.
        max_turns: generations of a task at most; by default the policy's own limit.
        max_tokens: sampled tokens of a turn at most; by default the policy's own limit.
        temperature: of the sampling; 0 is greedy.
        api_key_env: environment variable with the endpoint's key.
        backend_config: further fields of `ClientConfig` or `AsyncVLLMConfig`.
        agent_options: further keyword arguments of the agent.
        timeout: seconds for one task.
        retry_failed: run again the tasks that ended with a fault.
        repeats: attempts at each task.
    """

    data: str | None = None
    out: OutputPath
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    reward: str | None = None
    model: str | None = None
    base_url: str | None = None
    template: str | None = None
    client_nodes: NodeSettings | None = None
    max_turns: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0)
    api_key_env: str = "OPENAI_API_KEY"
    backend_config: Mapping[str, object] = Field(default_factory=dict)
    agent_options: Mapping[str, object] = Field(default_factory=dict)
    evaluator: tuple[Given, ...] = ("reference",)
    timeout: float = Field(900.0, gt=0)
    retry_failed: bool = False
    repeats: int = Field(1, ge=1)

    @property
    def specs(self) -> dict[str, Spec]:
        """The evaluators by label, with files read; a reward function or a protocol's evaluator is the first."""
        choice = self.protocol_choice
        own: tuple[Given, ...] = () if choice is None else ({"name": choice.name, **choice.spec()},)
        first: tuple[Given, ...] = () if self.reward is None else ({"reward": self.reward},)
        # With a protocol, no other evaluator is the default.
        rest = self.evaluator if choice is None or "evaluator" in self.model_fields_set else ()
        return read_specs((*own, *first, *rest))

    def source(self) -> TaskSource:
        """Return the data set, its split and its options: those of the protocol, or as they were given.

        Raises:
            ConfigError: there is no data set, or another one than the protocol's.
        """
        choice = self.protocol_choice
        if choice is None:
            if self.data is None:
                raise ConfigError("--data is missing: give it, or data: in the file of --config")
            return TaskSource(self.data, self.split, dict(self.data_options))
        found = choice.data()
        if self.data not in (None, found["data"]):
            raise ConfigError(
                f"--protocol {choice.name} has the data set {found['data']}: leave --data out, and name the folder of "
                "its files with --root"
            )
        return TaskSource(found["data"], found["split"], {**found["options"], **self.data_options})

    def identity(self) -> dict[str, object]:
        """Return the settings that all results of one run share, JSON-able, without the secrets of addresses.

        Raises:
            ConfigError: a setting holds a key of a service, which must not be written to the folder.
        """
        chosen = self.model_dump(mode="json", exclude={*_NOT_IDENTITY, *_OF_PROTOCOL})
        chosen["evaluator"] = self.specs
        if (choice := self.protocol_choice) is not None:
            chosen["evaluator"][choice.name] = choice.identity()
        chosen["agent"] = self.agent or IMAGE_EDITING
        refuse_keys(chosen)
        if self.model is not None and Path(self.model).is_dir():
            # Names, sizes and times of the checkpoint's files: new weights in the same place are another model.
            folder = Path(self.model)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            entries = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
            chosen["model_files"] = hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]
        return public_settings(chosen)


def refuse_keys(settings: Mapping[str, object]) -> None:
    """Raise `ConfigError` for a key of a service, at any depth of settings that will be written to a folder."""
    for name in secret_entries(settings):
        raise ConfigError(f"keys do not belong into settings: name the environment variable instead of {name}")


def read_settings(config: Path | None, given: Mapping[str, object]) -> EvaluationSettings:
    """Return the settings of a YAML file and of the command line, which goes first.

    Args:
        config: the file; None for none.
        given: options by name; None stands for an option that was not given.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, wrong or missing.
    """
    values = {} if config is None else read_mapping(config, "file of --config", "data: stickers")
    values.update({name: value for name, value in given.items() if value is not None})
    needed = ("out",) if "protocol" in values else ("data", "out")
    for name in needed:
        if name not in values:
            raise ConfigError(f"--{name} is missing: give it, or {name}: in the file of --config")
    if isinstance(values.get("engine"), str):
        values["engine"] = read_engines(values["engine"])
    read_nodes(values.get("client_nodes"))
    return EvaluationSettings(**values)
