"""Write a project: agent, tool, reward, sample tasks, recipes, tests and a page about them.

Each file is rendered from one of `template/`, whose folder `package` becomes the package of the project. The project
gets a copy of the small policy that comes with the repository, so that it needs nothing of the clone.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import keyword
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentfly.errors import ConfigError, shortened
from agentfly.images import load_image
from agentfly.model_source import SHIPPED_POLICY

POLICY = "policy"
POLICY_MISSING = (
    "this installation of agentfly is no clone of its repository, and so has no small policy to copy: run `make "
    f"quickstart` in a clone and copy runs/quickstart/policy to {POLICY} in the project, or name a model in recipe.yaml"
)
_TEMPLATE = Path(__file__).parent / "template"
_PACKAGE = "package"
_RENAMED = {"gitignore": ".gitignore"}
_OWN = frozenset(("data", "policies", POLICY, "runs", "tests"))  # folders beside the package
# Files of the shipped policy that are about how it was made.
_NOT_COPIED = ("warm_start.json", "figures.json")
_TASKS = 4
_SEED = 0


@dataclass(frozen=True)
class NewProject:
    """A project that was written.

    Attributes:
        folder: of the project.
        name: of its package.
        has_policy: True if this installation has the small policy, which was copied.
    """

    folder: Path
    name: str
    has_policy: bool


@dataclass(frozen=True)
class SampleTask:
    """A task of the sample.

    Attributes:
        id: of the task.
        instruction: to the agent.
        image, target: files beside `tasks.jsonl`.
        colour: of the sticker to remove, for the reward.
    """

    id: str
    instruction: str
    image: str
    target: str
    colour: str


def create_project(folder: Path) -> NewProject:
    """Write a project whose package has the name of the folder.

    Nothing is left of a project that cannot be written as a whole.

    Args:
        folder: that is not there yet, or is empty.

    Raises:
        ConfigError: the name is none for a package, or there is something in the folder.
    """
    folder = folder.absolute()
    check_name(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".agentfly-new-") as scratch:
        work = Path(scratch) / folder.name
        work.mkdir()
        _write_files(work, folder.name, write_sample(work / "data"))
        if has_policy := (SHIPPED_POLICY / "config.json").is_file():
            shutil.copytree(SHIPPED_POLICY, work / POLICY, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        try:
            os.rename(work, folder)  # in one step; the system refuses it where something is
        except OSError as fault:
            if fault.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _not_empty(folder) from None
            raise
    return NewProject(folder, folder.name, has_policy)


def check_name(folder: Path) -> None:
    """Raise `ConfigError` unless a project can be written to a folder.

    Args:
        folder: absolute; its name becomes that of the package.
    """
    name = folder.name
    if not name.isidentifier() or keyword.iskeyword(name) or not name.isascii():
        raise ConfigError(
            f"{shortened(name)!r} is no name for a Python package: use letters, digits and '_', such as my_project"
        )
    if name in _OWN:
        raise ConfigError(f"a project has a folder {name!r} beside its package: choose another name, such as my_{name}")
    if name in sys.stdlib_module_names or _is_installed(name, folder):
        raise ConfigError(
            f"there is a Python module {name!r} already, which the project would hide: choose another name"
        )
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} is no folder: choose another name")
    if folder.is_dir() and any(folder.iterdir()):
        raise _not_empty(folder)


def _not_empty(folder: Path) -> ConfigError:
    return ConfigError(f"{folder} is not empty, and nothing in it is overwritten: choose another name, or move it")


def _is_installed(name: str, folder: Path) -> bool:
    """Return True for a module that can be imported and is not the folder of the project itself."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return True  # something of that name is there, and is broken
    if found is None:
        return False
    places = [Path(place).absolute() for place in found.submodule_search_locations or ()]
    return found.origin is not None or any(place != folder for place in places)


def write_sample(folder: Path) -> Sequence[SampleTask]:
    """Write `tasks.jsonl` and its images: stickers on photographs, one of which is to be removed.

    Args:
        folder: that is made.
    """
    from agentfly.datasets import StickerWorld

    world, tasks = StickerWorld(), []
    folder.mkdir()
    for number in range(_TASKS):
        task = world.task(number, "train", "named", seed=_SEED)
        assert task.target is not None
        sample = SampleTask(
            id=f"sticker-{number + 1}",
            instruction=task.instruction,
            image=f"{number + 1}.png",
            target=f"{number + 1}_target.png",
            colour=next(sticker["colour"] for sticker in task.metadata["stickers"] if sticker["is_target"]),
        )
        load_image(task.images[0]).save(folder / sample.image)
        load_image(task.target).save(folder / sample.target)
        tasks.append(sample)
    lines = [json.dumps(vars(task)) for task in tasks]
    (folder / "tasks.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tasks


def _write_files(folder: Path, name: str, tasks: Sequence[SampleTask]) -> None:
    """Render every template into a folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    values = {"name": name, "agent": agent_name(name), "tasks": tasks}
    for template in environment.list_templates(extensions=["jinja"]):
        place, _, file = template.removesuffix(".jinja").rpartition("/")
        path = folder / (name if place == _PACKAGE else place) / _RENAMED.get(file, file)
        path.parent.mkdir(exist_ok=True)
        path.write_text(environment.get_template(template).render(values), encoding="utf-8")


def agent_name(name: str) -> str:
    """Return the name of the agent's class, such as "MyProjectAgent" for "my_project"."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Agent"
