"""The prompts of directors and generators: one Markdown file for each phase, with a system and a user part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from agentfly.errors import ConfigError, unknown_name
from agentfly.files import read_text

# The phases, and the placeholders (`$name`) that each file may have.
PHASES: Mapping[str, frozenset[str]] = {
    "brief": frozenset(("name", "persona", "request", "medium")),
    "write": frozenset(("name", "persona", "request", "medium", "briefs")),
    "critique": frozenset(("name", "persona", "request", "medium", "brief", "prompt", "generator")),
    "refine": frozenset(("name", "persona", "request", "medium", "briefs", "prompt", "score", "critiques", "best")),
}
# Texts for `$medium`: what directors and generators are told of the engine that makes the images.
TEXT_TO_IMAGE = (
    "a text-to-image model (SDXL), which sees nothing but one prompt and knows nothing of earlier images or of this "
    "conversation; it reads about 60 words, the first ones best"
)
IMAGE_EDITOR = (
    "an image editor, which is given the first image that is shown and one instruction that says what to change in it"
)
_PARTS = re.compile(r"\A\s*# system\s*\n(?P<system>.*?)^# user\s*\n(?P<user>.*)\Z", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class PhasePrompt:
    """The texts of one phase, with placeholders for the parts that differ from call to call."""

    system: Template
    user: Template

    def fill(self, **values: str) -> tuple[str, str]:
        """Return the system and the user text of a call."""
        return self.system.substitute(values).strip(), self.user.substitute(values).strip()


@dataclass(frozen=True)
class Prompts:
    """A prompt for each phase."""

    brief: PhasePrompt
    write: PhasePrompt
    critique: PhasePrompt
    refine: PhasePrompt


def load_prompts(folder: Path) -> Prompts:
    """Load the prompts of a folder: brief.md, write.md, critique.md, refine.md.

    Raises:
        ConfigError: a file is missing, lacks a part, or has an unknown placeholder.
    """
    prompts = {}
    for phase, known in PHASES.items():
        path = folder / f"{phase}.md"
        try:
            match = _PARTS.match(read_text(path))
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigError(f"cannot read the prompt {path}: {fault}") from None
        if match is None:
            raise ConfigError(f"the prompt {path} has two parts, which begin with the lines '# system' and '# user'")
        parts = {name: Template(text) for name, text in match.groupdict().items()}
        for part in parts.values():
            try:
                part.substitute(dict.fromkeys(known, ""))
            except KeyError as fault:
                raise ConfigError(f"{path}: {unknown_name('place', str(fault.args[0]), known)}") from None
            except ValueError:
                raise ConfigError(f"the prompt {path} has a stray '$': write $$ for a dollar sign") from None
        prompts[phase] = PhasePrompt(**parts)
    return Prompts(**prompts)
