"""What a person can mend ends a command in one line; a bug keeps its traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentfly import cli
from agentfly.cli import app, main
from agentfly.errors import ConfigError
from agentfly.files import parse_yaml
from tests.unit.hostile import EVERYTHING, HOSTILE, assert_tame

BROKEN = "a: [1, 2\nb: }\n"
# The words after it are those of the parser, which is libyaml's in the tests.
PLACE = "line 2, column 2: "
# As root of a user namespace of its own: a disk of 300 KB.
SMALL_DISK = 'mount -t tmpfs -o size=300k tmpfs "$0" && exec "$@"'


def one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command says when it fails, which is one line."""
    monkeypatch.setattr("sys.argv", ["agentfly", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    return said.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("eval --data stickers -o out --config FILE", "the file of --config"),
        ("eval --data stickers -o out --evaluator FILE", "the evaluator file"),
        ("train FILE", "the recipe"),
        ("train FILE --dry-run", "the recipe"),
        ("sft FILE", "the settings file"),
        ("generate x --config FILE", "the file of --config"),
        ("generate x --rubric FILE", "the rubric"),
    ],
)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BROKEN.encode(), f"is not valid YAML: {PLACE}"),
        (b"\xff\xfe\x00", "is no UTF-8 text: save it as a YAML text file"),
        (b"when: !!int soon\n", "is not valid YAML: invalid literal for int() with base 10: 'soon'"),
        (b"!!python/object:os.system x", "is not valid YAML: line 1, column 1: could not determine a constructor"),
    ],
)
def test_yaml_that_is_none(
    arguments: str,
    what: str,
    content: bytes,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_bytes(content)
    said = one_line(monkeypatch, capsys, *arguments.replace("FILE", "mine.yaml").split())
    assert said.startswith(f"{what} 'mine.yaml' {reason}")


def test_yaml_in_a_word_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert one_line(monkeypatch, capsys, "sft", "model={", "out=x").startswith("'model={' is not valid YAML: line ")
    said = one_line(monkeypatch, capsys, "eval", "--data", "stickers", "-o", tmp_path, "--evaluator", "judge:top_p=[")
    assert said.startswith("evaluator 'judge:top_p=[' is not valid YAML: line ")


def test_a_recipe_whose_defaults_name_a_broken_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base.yaml").write_text(BROKEN)
    (tmp_path / "mine.yaml").write_text("defaults: [agentfly, base, _self_, {device: cpu}]\n")
    said = one_line(monkeypatch, capsys, "train", tmp_path / "mine.yaml")
    assert said.startswith(f"{tmp_path / 'base.yaml'} is not valid YAML: {PLACE}")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(errno.ENOSPC, "full"), "no space is left on the disk. What was written before is kept. Free some"),
        (OSError(errno.EDQUOT, "quota", "a.png"), "no space is left on the disk (a.png). What was"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "no space is left"),
        (PermissionError(errno.EACCES, "no", "/root/a"), "no permission (/root/a): give another path"),
        (FileNotFoundError(errno.ENOENT, "no", "a.txt"), "there is no such file or folder (a.txt): check the path"),
        (OSError(errno.EMFILE, "many"), "too many files are open: allow more (ulimit -n 65536)"),
    ],
)
def test_faults_of_the_machine(
    fault: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(cli, "app", fails)
    assert one_line(monkeypatch, capsys, "eval").startswith(told)


@pytest.mark.parametrize("hostile", [*HOSTILE, EVERYTHING])
def test_an_error_is_shown_whatever_a_server_said(
    hostile: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConfigError(f"the server said {hostile} at http://me:pa55word@h/v1?key=sk-secret")

    monkeypatch.setattr(cli, "app", fails)
    said = one_line(monkeypatch, capsys, "eval")
    assert said.endswith("at http://***@h/v1?key=***")
    if hostile == EVERYTHING:
        assert_tame(said)


def test_edit_shows_no_secret_of_an_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    options = ("-o", tmp_path / "out.png", "--base-url", "http://me:pa55word@127.0.0.1:1/v1?key=sk-other")
    said = one_line(monkeypatch, capsys, "edit", tmp_path / "in.png", "Brighter.", *options)
    assert said.startswith("cannot reach http://***@127.0.0.1:1/v1?key=***")
    assert not [secret for secret in ("pa55word", "sk-secret", "sk-other") if secret in said]


@pytest.mark.parametrize("bug", [TypeError("a bug"), OSError("of a library, without a number")])
def test_a_bug_keeps_its_traceback(bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise bug

    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr("sys.argv", ["agentfly", "version"])
    with pytest.raises(type(bug)):
        main()


def test_a_full_disk_is_told_with_the_option_that_moves_the_folder_for_every_verb_that_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    named = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    named |= {group.name or "" for group in app.registered_groups}
    silent = {"version", "doctor", "serve-images"}
    assert named - silent == set(cli.FOLDER_OPTIONS)
    monkeypatch.setattr(cli, "app", fails)
    for verb, option in cli.FOLDER_OPTIONS.items():
        assert f"name it with {option}; then run" in one_line(monkeypatch, capsys, verb)


def small_disk(folder: Path, *arguments: str) -> str:
    """What a command says on a disk of 300 KB, which is mounted at a folder for it alone."""
    folder.mkdir()
    probe = ["unshare", "-rm", "sh", "-c", SMALL_DISK, str(folder)]
    if subprocess.run([*probe, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    command = [sys.executable, "-m", "agentfly.cli", *arguments]
    done = subprocess.run(
        [*probe, *command], capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


@pytest.mark.slow
def test_an_evaluation_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    out = tmp_path / "disk" / "run"
    agent = "tests.unit.evaluation.agents:editing"
    said = small_disk(out.parent, "eval", "--data", "stickers", "--agent", agent, "--limit", "40", "-o", str(out))
    assert said.startswith(f"error: no space is left on the disk ({out}")
    assert said.endswith("name it with --out FOLDER; then run the same command again\n")
    assert said.count("\n") == 1, said


@pytest.mark.slow
def test_a_conversion_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    out = tmp_path / "disk" / "data"
    said = small_disk(out.parent, "data", "convert", "stickers", "--limit", "60", "--out", str(out))
    assert said.startswith(f"error: no space is left on the disk ({out / 'train.tasks.parquet'}). What was written")
    assert said.count("\n") == 1, said


@pytest.mark.slow
def test_yaml_that_is_nested_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    # As it is read outside of the tests, where libyaml is not used.
    monkeypatch.setattr("yaml.SafeLoader", __import__("yaml.loader").loader.SafeLoader)
    with pytest.raises(ConfigError, match="is not valid YAML: it is nested too deeply"):
        parse_yaml("[" * 5000 + "]" * 5000, "it")
