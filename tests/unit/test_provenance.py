from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from agentfly import provenance
from agentfly.provenance import FILE_NAME, commit_of, current_environment, record_environment


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody who has no settings of their own."""
    who = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "tester")
    who |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "t@example.org")
    command = ["git", "-C", str(folder), *arguments]
    environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, timeout=30
    ).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A working tree with one commit, which ignores `inside/`."""
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    (tmp_path / ".gitignore").write_text("inside/\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_the_commit_says_if_the_code_was_changed(project: Path) -> None:
    head = git(project, "rev-parse", "HEAD")
    assert commit_of(project) == {"commit": head, "changed": False}
    (project / "code.py").write_text("a = 2\n")
    assert commit_of(project) == {"commit": head, "changed": True}


def test_a_folder_without_git_and_one_that_git_ignores_have_no_commit(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (project / "inside").mkdir()
    assert commit_of(project / "inside") is None
    assert commit_of(tmp_path_factory.mktemp("plain")) is None
    assert commit_of(project / "not there") is None


def test_a_program_that_a_repository_names_is_not_run(project: Path) -> None:
    script = project / "hook.sh"
    script.write_text("#!/bin/sh\ntouch ran\n")
    script.chmod(0o755)
    git(project, "config", "core.fsmonitor", str(script))
    assert commit_of(project) is not None
    assert not (project / "ran").exists()


def test_each_start_that_differs_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_environment(tmp_path)
    record_environment(tmp_path)
    assert len(provenance.read_starts(tmp_path / FILE_NAME)) == 1
    changed = {**current_environment(), "python": "9.9"}
    monkeypatch.setattr(provenance, "current_environment", lambda: changed)
    record_environment(tmp_path)
    first, second = provenance.read_starts(tmp_path / FILE_NAME)
    assert (first["python"], second["python"]) == (current_environment_python(), "9.9")
    assert first["began"]


def current_environment_python() -> str:
    import platform

    return platform.python_version()


def test_a_damaged_file_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{"starts": 3')
    record_environment(tmp_path)
    assert len(provenance.read_starts(tmp_path / FILE_NAME)) == 1


def test_the_record_names_no_user_host_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-written")
    record_environment(tmp_path)
    text = (tmp_path / FILE_NAME).read_text()
    for word in (socket.gethostname(), str(Path.home()), str(Path.cwd()), "sk-not-to-be-written"):
        assert word not in text
    found = json.loads(text)["starts"][0]
    assert found["versions"]["numpy"]
    assert found["machine"]["cores"] >= 1


def test_instruction_sets_and_accelerators_are_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx2 avx512f\n")
    gpu = tmp_path / "0000:01:00.0"
    gpu.mkdir()
    (gpu / "information").write_text("Model: \t\t NVIDIA H200\nGPU UUID: GPU-1\n")
    assert provenance._instructions(tmp_path / "cpuinfo") == ["sse4_2", "avx2", "avx512f"]
    assert provenance._accelerators(tmp_path) == ["NVIDIA H200"]
    assert provenance._instructions(tmp_path / "none") == []
