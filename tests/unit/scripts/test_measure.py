"""scripts/measure.py on a package made up for each test: every measure counts what its name says, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load_script

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "measure.py"
Measured = Callable[[Mapping[str, str]], dict[str, tuple[float, tuple[str, ...]]]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("scripts/measure.py")


def write(folder: Path, files: Mapping[str, str]) -> Path:
    package = folder / "house"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


@pytest.fixture
def measured(script: ModuleType, tmp_path: Path) -> Measured:
    """Value and places of each measure of a package with these files."""

    def run(files: Mapping[str, str]) -> dict[str, tuple[float, tuple[str, ...]]]:
        return {each.name: (each.value, each.places) for each in script.measure(write(tmp_path, files))}

    return run


def test_lines_and_files_are_counted_empty_files_too(measured: Measured) -> None:
    found = measured({"__init__.py": "", "a.py": "x = 1\n\ny = 2\n", "room/b.py": "z = 3"})
    assert (found["lines"][0], found["files"][0]) == (4, 3)


def test_a_file_is_long_from_401_lines_and_a_function_from_41(measured: Measured) -> None:
    body = "    x = 1\n"
    found = measured(
        {
            "fits.py": "x = 1\n" * 400,
            "long.py": "x = 1\n" * 401,
            "functions.py": "@mark\ndef fits(\n    a,\n    b,\n):\n" + body * 40 + "async def long():\n" + body * 41,
        }
    )
    assert found["long-files"] == (1.0, ("house/long.py:1 401 lines",))
    assert found["long-functions"] == (1.0, ("house/functions.py:46 long 41 lines",))


def test_a_helper_with_one_caller_is_private_and_called_in_one_place(measured: Measured) -> None:
    code = """
def public(): _once(); _twice(); _twice(); return _passed, __odd
def _once(): ...
def _twice(): ...
def _passed(): ...
def _never(): ...
@cache
def _cached(): ...
_cached()
def __odd(): ...
class C:
    def run(self): self._step()
    def _step(self): ...
    def __len__(self): return 0
"""
    _, places = measured({"a.py": code})["one-caller-helpers"]
    assert [place.split()[1] for place in places] == ["_once", "_step"]


def test_recursion_is_no_second_caller_and_an_import_is_one(measured: Measured) -> None:
    _, places = measured(
        {
            "a.py": "def _walk(n): return _walk(n - 1)\ndef g(): _walk(3)\ndef _shared(): ...\ndef f(): _shared()\n",
            "b.py": "from house.a import _shared\n",
            # The same name in another file is another helper.
            "c.py": "def _walk(): ...\ndef f(): _walk(); _walk()\n",
        }
    )["one-caller-helpers"]
    assert places == ("house/a.py:1 _walk",)


def test_helpers_and_any_are_told_for_1000_lines(measured: Measured) -> None:
    found = measured({"a.py": "from typing import Any\nx: Any\ndef _f(y: list[Any]): ...\n_f(1)\n" + "\n" * 496})
    assert found["lines"][0] == 500
    assert found["any"] == (4.0, ("house/a.py:2", "house/a.py:3"))
    assert found["one-caller-helpers"][0] == 2.0


def test_a_circle_through_a_lazy_import_counts(measured: Measured) -> None:
    found = measured(
        {
            "a.py": "from house import b\n",
            "b.py": "import house.c\n",
            "c.py": "def f():\n    from .a import x\n",
            "d.py": "import house.a\n",
        }
    )
    assert found["circles"] == (1.0, ("house/a.py <-> house/b.py <-> house/c.py",))
    assert found["type-checking-circles"][0] == 0


def test_a_circle_for_type_checkers_alone_is_told_apart(measured: Measured) -> None:
    found = measured(
        {
            "a.py": "import typing\nif typing.TYPE_CHECKING:\n    from house.b import B\n",
            "b.py": "from house.a import A\n",
        }
    )
    assert found["circles"] == (0.0, ())
    assert found["type-checking-circles"] == (1.0, ("house/a.py <-> house/b.py",))


def test_relative_imports_and_a_packages_face_are_resolved(measured: Measured) -> None:
    found = measured(
        {
            "__init__.py": "",
            "room/__init__.py": "from .inner import x\n",
            "room/inner.py": "from .. import other\n",
            "other.py": "from house.room import x\n",
        }
    )
    assert found["circles"] == (1.0, ("house/other.py <-> house/room/__init__.py <-> house/room/inner.py",))


def test_code_is_counted_without_blanks_comments_and_docstrings(measured: Measured) -> None:
    code = '"""What it is."""\n\n# why\ndef f():\n    """Return 1."""\n    return (\n        1  # one\n    )\n'
    assert measured({"a.py": code})["code-lines"][0] == 4


def test_whoever_imports_from_a_face_imports_the_file_behind_it(measured: Measured) -> None:
    face = "from house.room.inner import x\nfrom house.room.lonely import y\n"
    found = measured(
        {
            "__init__.py": "",
            "room/__init__.py": face,
            "room/inner.py": "x = 1\n",
            "room/lonely.py": "y = 1\n",
            "a.py": "from house.room import x\n",
            "b.py": "from house.room import x, y\n",
        }
    )
    assert found["one-importer-files"][1] == ("house/room/lonely.py:1 only house/b.py",)


def test_a_file_that_one_other_file_imports_is_listed_with_it(measured: Measured) -> None:
    _, places = measured(
        {"one.py": "", "two.py": "", "a.py": "import house.one\nimport house.two\n", "b.py": "from house import two\n"}
    )["one-importer-files"]
    assert places == ("house/one.py:1 only house/a.py",)


def test_docstrings_that_ask_are_counted_in_percent(measured: Measured) -> None:
    code = '''"""How it works."""
class A:
    """Whatever this is, it is no question word."""
    def f(self):
        """what it does"""
def g():
    """Return one."""
'''
    share, places = measured({"a.py": code})["asking-docstrings"]
    assert share == 50.0
    assert places == ("house/a.py:1 How it works.", "house/a.py:5 what it does")


def test_pictures_are_found_where_names_are_made_and_not_where_they_are_used(measured: Measured) -> None:
    code = "class PictureBox: ...\ndef f(picture):\n    self.pictures = picture\n    return picture\n"
    _, places = measured({"a.py": code})["picture-names"]
    assert [place.split()[1] for place in places] == ["PictureBox", "picture", "pictures"]


def test_a_target_that_is_missed_is_marked(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = write(tmp_path, {"a.py": "picture = 1\n"})
    assert script.main(["--package", str(package)]) == 0
    lines = {line[2:].split()[0]: line[0] for line in capsys.readouterr().out.splitlines()}
    assert lines["picture-names"] == "!"
    assert lines["circles"] == " "


def test_json_and_list_give_the_same_places(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = str(write(tmp_path, {"a.py": "picture = 1\n"}))
    script.main(["--package", package, "--json"])
    told = json.loads(capsys.readouterr().out)["picture-names"]
    script.main(["--package", package, "--list", "picture-names"])
    assert told["places"] == capsys.readouterr().out.splitlines() == ["house/a.py:1 picture"]


def test_an_unknown_measure_is_refused_with_those_that_there_are(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.main(["--package", str(write(tmp_path, {"a.py": ""})), "--list", "nonsense"])
    assert "one-caller-helpers" in capsys.readouterr().err
