"""Chat templates by name: one `.jinja` file each, in this folder."""

from __future__ import annotations

from pathlib import Path

from agentfly.errors import TemplateError, unknown_name

_FOLDER = Path(__file__).parent


def template_names() -> tuple[str, ...]:
    """Names of the templates that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.jinja")))


def load_template(name_or_path: str) -> str:
    """Text of a template, by name (`qwen2.5-vl-system-tool`) or by the path of a `.jinja` file.

    Raises:
        TemplateError: neither a known name nor a readable file.
    """
    if name_or_path in template_names():
        return (_FOLDER / f"{name_or_path}.jinja").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix == ".jinja" and path.is_file():
        return path.read_text(encoding="utf-8")
    raise TemplateError(f"{unknown_name('template', name_or_path, template_names())}, or the path of a .jinja file")
