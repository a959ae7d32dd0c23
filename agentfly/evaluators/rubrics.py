"""Rubrics: the criteria of a domain, written once in YAML and read by judge and prompter."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentfly.errors import ConfigError, unknown_name
from agentfly.files import read_mapping

_FOLDER = Path(__file__).parent / "rubrics"


class Criterion(BaseModel):
    """One thing to look at: its name, and the question to answer about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    ask: str = Field(min_length=1)


class Rubric(BaseModel):
    """Instructions of a domain.

    Attributes:
        name: short name, as in the file's name.
        purpose: what images of this domain are for, in a sentence.
        criteria: what the judge looks at, the most important first.
        judge: further rules for the judge.
        prompter: rules for whoever writes the next prompt.
        fixes: what to ask for when the judge names a weakness.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    purpose: str = Field(min_length=1)
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    judge: tuple[str, ...] = ()
    prompter: tuple[str, ...] = ()
    fixes: dict[str, str] = Field(default_factory=dict)

    def for_judge(self) -> str:
        """The rubric as the part of a judge's prompt."""
        lines = [f"Rubric: {self.purpose}", "Look at, the most important first:"]
        lines += [f"- {criterion.name}: {criterion.ask}" for criterion in self.criteria]
        lines += [f"- {rule}" for rule in self.judge]
        return "\n".join(lines)

    def for_prompter(self) -> str:
        """The rubric as the part of a prompter's instructions."""
        lines = [f"The images are for this: {self.purpose}", "They are judged by:"]
        lines += [f"- {criterion.name}: {criterion.ask}" for criterion in self.criteria]
        if self.prompter:
            lines += ["Rules for the prompt:", *(f"- {rule}" for rule in self.prompter)]
        if self.fixes:
            lines += ["When the critique names", *(f"- {weakness}: {fix}" for weakness, fix in self.fixes.items())]
        return "\n".join(lines)


def available_rubrics() -> list[str]:
    """Names of the rubrics that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_rubric(name: str | Path) -> Rubric:
    """A rubric by its name, or from a YAML file of one's own.

    Raises:
        ConfigError: no such rubric or file, or the file is not one; the message names the field.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in available_rubrics():
            raise ConfigError(f"{unknown_name('rubric', str(name), available_rubrics())}; or give a .yaml file")
        path = _FOLDER / f"{name}.yaml"
    data = read_mapping(path, "rubric", "purpose: judges catalogue photographs")
    try:
        return Rubric(**data)
    except (ValidationError, TypeError) as fault:
        raise ConfigError(f"the rubric {path}: {_faults(fault)}") from fault


def _faults(fault: Exception) -> str:
    if not isinstance(fault, ValidationError):
        return str(fault)
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in fault.errors(include_input=False))
