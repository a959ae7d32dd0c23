"""Rubrics: the criteria of a domain, written once in YAML for judge and prompter."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from agentfly.errors import ConfigError, unknown_name
from agentfly.files import read_mapping
from agentfly.settings import Settings

_FOLDER = Path(__file__).parent / "rubrics"


class Criterion(Settings):
    """One criterion: its name, and the question to answer about it."""

    name: str = Field(min_length=1)
    ask: str = Field(min_length=1)


class Rubric(Settings):
    """Instructions of a domain.

    Attributes:
        name: short name, as in the file's name.
        purpose: use of the domain's images, in a sentence.
        criteria: questions to the judge, the most important first.
        judge: further rules for the judge.
        prompter: rules for the model that writes the next prompt.
        fixes: remedies to ask for, by the weakness that the judge names.
    """

    name: str = Field(min_length=1)
    purpose: str = Field(min_length=1)
    criteria: tuple[Criterion, ...] = Field(min_length=1)
    judge: tuple[str, ...] = ()
    prompter: tuple[str, ...] = ()
    fixes: dict[str, str] = Field(default_factory=dict)

    def for_judge(self) -> str:
        """Return the part of a judge's prompt that states the rubric."""
        lines = [f"Rubric: {self.purpose}", "Look at, the most important first:"]
        lines += [f"- {criterion.name}: {criterion.ask}" for criterion in self.criteria]
        lines += [f"- {rule}" for rule in self.judge]
        return "\n".join(lines)

    def for_prompter(self) -> str:
        """Return the part of a prompter's instructions that states the rubric."""
        lines = [f"The images are for this: {self.purpose}", "They are judged by:"]
        lines += [f"- {criterion.name}: {criterion.ask}" for criterion in self.criteria]
        if self.prompter:
            lines += ["Rules for the prompt:", *(f"- {rule}" for rule in self.prompter)]
        if self.fixes:
            lines += ["When the critique names", *(f"- {weakness}: {fix}" for weakness, fix in self.fixes.items())]
        return "\n".join(lines)


def available_rubrics() -> list[str]:
    """Return the names of the rubrics that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_rubric(name: str | Path) -> Rubric:
    """Return a rubric by its name, or from a YAML file.

    Raises:
        ConfigError: there is no such rubric or file, or the file is not a rubric; the message names the field.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if str(name) not in available_rubrics():
            raise ConfigError(f"{unknown_name('rubric', str(name), available_rubrics())}; or give a .yaml file")
        path = _FOLDER / f"{name}.yaml"
    data = read_mapping(path, "rubric", "purpose: judges catalogue photographs")
    try:
        return Rubric(**data)
    except ConfigError as fault:
        raise ConfigError(f"the rubric {path}: {fault}") from fault
