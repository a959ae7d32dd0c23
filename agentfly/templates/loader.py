"""Chat templates by name: one `.jinja` file each, in this folder, and those that a program registers.

A template that opens a thought has a second name, with `-no-thinking` after it, under which it does not.

Every template of this folder keeps two promises that token-exact rollouts depend on: images stay in their place in
every turn, and a conversation is rendered as a prefix of its continuation.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from agentfly.errors import TemplateError, unknown_name
from agentfly.files import read_text

_FOLDER = Path(__file__).parent
_registered: dict[str, str] = {}
_NO_THINKING = "-no-thinking"


def template_names() -> tuple[str, ...]:
    """Return the names of the templates that come with the package."""
    names = [path.stem for path in _FOLDER.glob("*.jinja")]
    return tuple(sorted([*names, *(f"{name}{_NO_THINKING}" for name in names if "enable_thinking" in _own(name))]))


def available_templates() -> list[str]:
    """Return the names that `load_template` knows in this process: those of the package and the registered ones."""
    return sorted({*template_names(), *_registered})


def register_template(name: str, text_or_path: str | Path) -> None:
    """Make a template known by a name, in this process; registering a name again replaces its text.

    Args:
        name: value of `template=` for it.
        text_or_path: the template itself, or the path of its file; a string with a `{` is taken for the template.

    Raises:
        TemplateError: the name is one of the package's or could be a path, the file cannot be read, or there is no
            Jinja in it.
    """
    if name in template_names():
        raise TemplateError(f"template {name!r} comes with the package; register yours under another name")
    if not name or "/" in name or name.endswith(".jinja"):
        raise TemplateError(f"{name!r} is no name for a template: it must not look like a path")
    is_text = isinstance(text_or_path, str) and "{" in text_or_path
    text = _checked(str(text_or_path), name) if is_text else _read(Path(text_or_path))
    _registered[name] = text


def load_template(name_or_path: str) -> str:
    """Return the text of a template, by name (`qwen2.5-vl-system-tool`) or by the path of a `.jinja` file.

    Raises:
        TemplateError: neither a known name nor a readable file, or a file without Jinja in it.
    """
    if name_or_path in _registered:
        return _registered[name_or_path]
    if name_or_path in template_names():
        text = _own(name_or_path.removesuffix(_NO_THINKING))
        return f"{{%- set enable_thinking = false -%}}{text}" if name_or_path.endswith(_NO_THINKING) else text
    path = Path(name_or_path)
    if path.suffix == ".jinja" and path.is_file():
        return _read(path)
    names = available_templates()
    raise TemplateError(f"{unknown_name('template', name_or_path, names)}, or the path of a .jinja file")


@cache
def _own(name: str) -> str:
    """Return the text of a template of this folder."""
    return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as fault:
        raise TemplateError(f"template file {path} cannot be read: {fault}") from fault
    return _checked(text, str(path))


def _checked(text: str, source: str) -> str:
    if "{%" not in text and "{{" not in text:
        raise TemplateError(f"template {source} has no Jinja in it; pass the template's text, or the path of its file")
    return text
