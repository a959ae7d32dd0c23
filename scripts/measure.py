"""Measure how the package is built: sizes, circles of imports, helpers with one caller, types, docstrings, names.

    python scripts/measure.py                             # the table
    python scripts/measure.py --json                      # the same for a program
    python scripts/measure.py --list one-caller-helpers   # every place that a measure counts

Reads the source with `ast` and imports nothing of it, so it runs on a bare Python.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 40
QUESTION = re.compile(r"(what|whether|who|how)\b", re.IGNORECASE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Measure:
    """One figure and the places that it counts.

    Attributes:
        name: option of `--list`.
        value: the figure.
        unit: of the figure.
        target: highest value that is accepted; None where there is no limit.
        places: one line for each place, as `path:line name`.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    places: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """True unless the value lies above its target."""
        return self.target is None or self.value <= self.target


@dataclass
class Source:
    """A parsed file of the package.

    Attributes:
        path: below the folder of the package, which is its first part.
        module: dotted name.
        lines: number of lines.
        code: number of lines with code.
        tree: its syntax.
        needs: modules of the package that it imports, lazily too.
        needs_for_types: modules that it imports for type checkers alone.
    """

    path: str
    module: str
    lines: int
    code: int
    tree: ast.Module
    needs: set[str] = field(default_factory=set)
    needs_for_types: set[str] = field(default_factory=set)


def read_package(folder: Path) -> list[Source]:
    """Parse every Python file of a package, in order of their paths, and resolve its imports.

    Args:
        folder: of the package, such as `agentfly`.
    """
    sources = []
    for path in sorted(folder.rglob("*.py")):
        inner = path.relative_to(folder.parent)
        parts = inner.with_suffix("").parts
        text = path.read_text(encoding="utf-8")
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        tree = ast.parse(text)
        sources.append(Source(inner.as_posix(), module, len(text.splitlines()), code_lines(text, tree), tree))
    known = {source.module for source in sources}
    for source in sources:
        _resolve_imports(source, known)
    return sources


def _resolve_imports(source: Source, known: set[str]) -> None:
    type_checking = {
        id(inner)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.body
        for inner in ast.walk(child)
    }
    for node in ast.walk(source.tree):
        found = set(_imported(node, source, known)) - {source.module}
        (source.needs_for_types if id(node) in type_checking else source.needs).update(found)
    source.needs_for_types -= source.needs


def _imported(node: ast.AST, source: Source, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = source.module.split(".")
            climb = node.level - source.path.endswith("__init__.py")
            base = ".".join([*package[: len(package) - climb], *filter(None, [node.module])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield from [inner] if inner in known else [base] if base in known else []


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node, each sorted, the largest first (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in graph[node]:
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            place = stack.index(node)
            component, stack[place:] = sorted(stack[place:]), []
            if len(component) > 1:
                found.append(component)

    for node in graph:
        if node not in order:
            visit(node)
    return sorted(found, key=lambda component: (-len(component), component))


def functions(source: Source) -> Iterator[Function]:
    """Yield every function and method of a file, nested ones too."""
    yield from (node for node in ast.walk(source.tree) if isinstance(node, Function))


def function_lines(function: Function) -> int:
    """Return the lines of the body, its docstring included.

    Decorators and parameters do not count: those of a command are its options, with their help.
    """
    first = function.body[0].lineno
    return (function.end_lineno or first) - first + 1


def code_lines(text: str, tree: ast.Module) -> int:
    """Return the lines that hold code: no blank lines, no comments, no docstrings."""
    described: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            described.update(range(node.body[0].lineno, (node.body[0].end_lineno or node.body[0].lineno) + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    spoken: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            spoken.update(range(token.start[0], token.end[0] + 1))
    return len(spoken - described)


def importers(sources: Iterable[Source]) -> dict[str, set[str]]:
    """Return for each module the modules that import it.

    A package's face (`__init__.py`) hands names on: whoever imports a name from it imports the file that the name comes
    from, and the face is no importer of that file.
    """
    faces = {source.module: source for source in sources if source.path.endswith("__init__.py")}
    known = {source.module for source in sources}
    origins: dict[tuple[str, str], str] = {}
    for face in faces.values():
        for statement in face.tree.body:
            if isinstance(statement, ast.ImportFrom) and statement.module in known:
                names = (alias.asname or alias.name for alias in statement.names)
                origins.update({(face.module, name): statement.module for name in names})
    found: dict[str, set[str]] = {module: set() for module in known}
    for source in sources:
        handed_on = {origin for (face, _), origin in origins.items() if face == source.module}
        for node in ast.walk(source.tree):
            taken = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for module in _imported(node, source, known):
                behind = {module}
                while any((each, name) in origins for each in behind for name in taken):
                    behind = {origins[each, name] for each in behind for name in taken if (each, name) in origins}
                for each in behind - handed_on - {source.module}:
                    found[each].add(source.path)
    return found


def _references(tree: ast.AST) -> Counter[str]:
    """Count the names that are read, as `name`, as `.name` or by an import."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.name for alias in node.names)
    return found


def _handed_over(tree: ast.AST) -> set[str]:
    """Return the names that are read without being called: callbacks, entries of a table, targets of threads."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in called
    }


def one_caller_helpers(sources: Iterable[Source]) -> list[str]:
    """Return the private functions and methods that the package calls in exactly one place: they could stand inline.

    A reference is counted in the helper's own file, and in other files only where they import the helper. What the
    helper's own body refers to does not count, so recursion is no second caller. Helpers that are handed over instead
    of being called, and decorated ones (such as cached ones), cannot stand inline.
    """
    imported: Counter[tuple[str, str]] = Counter()
    counts: dict[str, Counter[str]] = {}
    handed_over: dict[str, set[str]] = {}
    sources = list(sources)
    for source in sources:
        counts[source.module] = _references(source.tree)
        handed_over[source.module] = _handed_over(source.tree)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.update((node.module, alias.name) for alias in node.names)
    found = []
    for source in sources:
        for function in functions(source):
            name = function.name
            if not name.startswith("_") or (name.startswith("__") and name.endswith("__")):
                continue
            if function.decorator_list or name in handed_over[source.module]:
                continue
            own = _references(function)[name]
            if counts[source.module][name] - own + imported[source.module, name] == 1:
                found.append(f"{source.path}:{function.lineno} {name}")
    return found


def any_places(source: Source) -> list[str]:
    """Return the places where the name `Any` stands in code; imports of it do not count."""
    return [
        f"{source.path}:{node.lineno}"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Name) and node.id == "Any") or (isinstance(node, ast.Attribute) and node.attr == "Any")
    ]


def docstrings(source: Source) -> Iterator[tuple[int, str]]:
    """Yield line and text of the docstrings of the module, its classes and its functions."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and (text := ast.get_docstring(node)) is not None:
            yield node.body[0].lineno, text


def defined_names(source: Source) -> Iterator[tuple[int, str]]:
    """Yield line and name of each definition: the module, classes, functions, arguments, variables and attributes."""
    yield 1, source.module.rpartition(".")[2]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef | Function):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def measure(folder: Path) -> list[Measure]:
    """Return every measure of a package.

    Args:
        folder: of the package, such as `agentfly`.
    """
    sources = read_package(folder)
    lines = sum(source.lines for source in sources)
    return [
        Measure("lines", lines, "lines"),
        Measure("code-lines", sum(source.code for source in sources), "lines without blanks, comments and docstrings"),
        Measure("files", len(sources), "files"),
        *_sizes(sources),
        _by_lines("one-caller-helpers", one_caller_helpers(sources), lines, 8),
        *_imports(sources),
        _by_lines("any", [place for source in sources for place in any_places(source)], lines, 10),
        *_words(sources),
    ]


def _by_lines(name: str, places: list[str], lines: int, target: float) -> Measure:
    return Measure(name, 1000 * len(places) / max(1, lines), "per 1,000 lines", target, tuple(places))


def _sizes(sources: list[Source]) -> Iterator[Measure]:
    files = [f"{source.path}:1 {source.lines} lines" for source in sources if source.lines > MOST_FILE_LINES]
    yield Measure("long-files", len(files), f"files over {MOST_FILE_LINES} lines", 0, tuple(files))
    long = [
        f"{source.path}:{function.lineno} {function.name} {function_lines(function)} lines"
        for source in sources
        for function in functions(source)
        if function_lines(function) > MOST_FUNCTION_LINES
    ]
    yield Measure("long-functions", len(long), f"functions over {MOST_FUNCTION_LINES} lines", 0, tuple(long))


def _imports(sources: list[Source]) -> Iterator[Measure]:
    paths = {source.module: source.path for source in sources}
    by_module = sorted(importers(sources).items())
    single = [f"{paths[module]}:1 only {next(iter(found))}" for module, found in by_module if len(found) == 1]
    yield Measure("one-importer-files", len(single), "files with one importing file", None, tuple(single))

    running = {source.module: source.needs for source in sources}
    found = circles(running)
    yield Measure("circles", len(found), "circles of files", 0, _in_words(found, paths))
    typed = circles({source.module: source.needs | source.needs_for_types for source in sources})
    only_typed = [component for component in typed if component not in found]
    unit = "further circles by TYPE_CHECKING alone"
    yield Measure("type-checking-circles", len(only_typed), unit, None, _in_words(only_typed, paths))


def _in_words(components: list[list[str]], paths: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(" <-> ".join(paths[module] for module in component) for component in components)


def _words(sources: list[Source]) -> Iterator[Measure]:
    texts = [(source.path, line, text) for source in sources for line, text in docstrings(source)]
    asking = tuple(f"{path}:{line} {text.splitlines()[0]}" for path, line, text in texts if QUESTION.match(text))
    unit = "% of docstrings that begin with what, whether, who or how"
    yield Measure("asking-docstrings", 100 * len(asking) / max(1, len(texts)), unit, 3, asking)
    names = {
        f"{source.path}:{line} {name}": None
        for source in sources
        for line, name in defined_names(source)
        if "picture" in name.lower()
    }
    yield Measure("picture-names", len(names), "definitions with `picture` in their name", 0, tuple(names))


def table(measures: Iterable[Measure]) -> str:
    """Return the measures as text: value, target and unit, one measure a line; `!` marks a missed target."""
    rows = []
    for each in measures:
        target = "" if each.target is None else f"<= {each.target:g}"
        rows.append(f"{' ' if each.met else '!'} {each.name:<22}{round(each.value, 1):>8,}  {target:<6}  {each.unit}")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """Write the table, the JSON, or the places of one measure to standard output; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=ROOT / "agentfly", help="folder of the package")
    parser.add_argument("--json", action="store_true", help="write JSON: value, unit, target and places by name")
    parser.add_argument("--list", metavar="NAME", help="write the places that one measure counts")
    given = parser.parse_args(arguments)
    measures = measure(given.package.resolve())
    by_name = {each.name: each for each in measures}
    if given.list is not None:
        if given.list not in by_name:
            parser.error(f"there is no measure {given.list!r}; there are {', '.join(by_name)}")
        text = "\n".join(by_name[given.list].places)
    elif given.json:
        plain = {
            each.name: {"value": each.value, "unit": each.unit, "target": each.target, "places": each.places}
            for each in measures
        }
        text = json.dumps(plain, indent=2)
    else:
        text = table(measures)
    if text:
        sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
