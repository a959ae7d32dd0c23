"""The modules of `web/static` as one plain script: browsers load no modules from a disk."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agentfly.errors import ConfigError
from agentfly.viewer.web.render import STATIC

_IMPORT = re.compile(r'^import\s+(?:\{([^}]*)\}\s+from\s+)?"\./([\w.-]+)";[ \t]*$', re.MULTILINE)
_EXPORT = re.compile(r"^export\s+((?:async\s+)?function\*?|const|let|class)\s+(\w+)", re.MULTILINE)
_OTHER = re.compile(r"^\s*(?:import\b(?!\s*\()|export\b).*$", re.MULTILINE)

_HEAD = """"use strict";
const agentfly = { modules: {}, made: {}, need(name) {
  if (!(name in this.made)) this.modules[name](this.made[name] = {});
  return this.made[name];
} };
"""


def bundle(names: Iterable[str]) -> str:
    """Return modules and what they import as one script. `agentfly.need("page.js")` runs a module, once.

    Raises:
        ConfigError: a module uses a form of import or export that is not known here.
    """
    texts: dict[str, str] = {}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        texts[name], imported = _wrapped(name)
        wanted += [other for other in imported if other not in wanted]
    return _HEAD + "".join(texts[name] for name in sorted(texts))


def _wrapped(name: str) -> tuple[str, list[str]]:
    """Return a module as a function, and the modules that it imports."""
    source = (STATIC / name).read_text(encoding="utf-8")
    imported = [found[2] for found in _IMPORT.finditer(source)]
    exported = [found[2] for found in _EXPORT.finditer(source)]

    def needed(found: re.Match[str]) -> str:
        names = ", ".join(part.strip().replace(" as ", ": ") for part in (found[1] or "").split(",") if part.strip())
        return f'const {{ {names} }} = agentfly.need("{found[2]}");' if names else f'agentfly.need("{found[2]}");'

    body = _EXPORT.sub(r"\1 \2", _IMPORT.sub(needed, source))
    if odd := _OTHER.search(body):
        raise ConfigError(f"{name} cannot be exported: {odd[0].strip()!r} is no form that the export knows")
    # Functions are there before the first line runs; all else is once the last one has.
    out = f"Object.assign(exports, {{ {', '.join(exported)} }});\n" if exported else ""
    return f'agentfly.modules["{name}"] = (exports) => {{\n{body}{out}}};\n', imported
