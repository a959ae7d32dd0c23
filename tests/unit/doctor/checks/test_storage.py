"""Disk, shared memory and memory against what runs take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.doctor import DoctorRequest, Examination
from agentfly.doctor.checks import storage
from agentfly.doctor.checks.storage import Space
from agentfly.training.recipe.memory import GIB
from tests.unit.doctor.judged import levels, only


def test_room_for_runs() -> None:
    def out(free: int, checkpoint: int | None) -> str:
        return only(storage.check_out(Path("runs"), Space(free, 100 * GIB), checkpoint))[0]

    assert [out(GIB, None), out(3 * GIB, None)] == ["error", "ok"]
    assert [out(40 * GIB, 45 * GIB), out(50 * GIB, 45 * GIB), out(500 * GIB, 45 * GIB)] == ["error", "warning", "ok"]


def test_room_for_downloads_and_for_ray() -> None:
    assert only(storage.check_cache(Path("c"), Space(GIB, GIB)))[0] == "warning"
    assert only(storage.check_cache(Path("c"), Space(20 * GIB, 100 * GIB)))[0] == "ok"
    assert only(storage.check_scratch(Path("/tmp"), Space(4 * GIB, 100 * GIB)))[0] == "error"
    assert only(storage.check_scratch(Path("/tmp"), Space(6 * GIB, 100 * GIB)))[0] == "ok"


def test_shared_memory_of_a_container_is_too_small() -> None:
    def shared(free: int) -> str:
        return only(storage.check_shared_memory(Space(free, free), GIB))[0]

    assert [shared(64 * 1024**2), shared(GIB // 2), shared(2 * GIB)] == ["error", "warning", "ok"]


def test_what_a_run_on_a_cpu_needs_comes_from_its_configuration() -> None:
    assert storage.cpu_run_shared_memory() == 500_000_000 + 16 * 1024**2


def test_memory() -> None:
    assert only(storage.check_memory(4 * GIB, False))[0] == "warning"
    assert only(storage.check_memory(4 * GIB, True))[0] == "ok"
    assert only(storage.check_memory(None, True))[0] == "skipped"


@pytest.mark.parametrize(("limit", "expected"), [("max", 8000 * 1024), ("5000000", 4000000), (None, 8000 * 1024)])
def test_memory_is_what_the_container_leaves(limit: str | None, expected: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("1000000\n")
    assert storage.available_memory(tmp_path, tmp_path) == expected
    assert storage.available_memory(tmp_path / "nowhere") is None


def test_a_checkpoint_is_measured_by_its_weights(tmp_path: Path) -> None:
    assert storage.checkpoint_bytes(tmp_path) is None
    for dtype, size in (("BF16", 2), ("F32", 4)):
        header = json.dumps({"w": {"dtype": dtype, "shape": [20, 25], "data_offsets": [0, 500 * size]}}).encode()
        (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 500 * size)
        assert storage.checkpoint_bytes(tmp_path) == 500 * 12
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert storage.checkpoint_bytes(tmp_path) is None


def test_a_folder_that_is_not_there_yet_is_measured_where_it_will_be(tmp_path: Path) -> None:
    assert storage.space_of(tmp_path / "a" / "b").total == storage.space_of(tmp_path).total
    request = DoctorRequest(out=tmp_path / "runs", cache=tmp_path)
    assert len(levels(storage.disk(Examination(request)))) == 3
