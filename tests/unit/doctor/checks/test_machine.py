"""Python, system, GPU and wheels, judged from facts; the driver, read from what nvidia-smi prints."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentfly.doctor.checks import machine
from agentfly.doctor.nvidia import GPU, Driver, read_driver
from tests.unit.doctor.judged import judged, levels, only

H100 = Driver((GPU("NVIDIA H100", 81559, 5),), "580.65.06", (13, 0))
NONE = Driver()


def test_python() -> None:
    assert only(machine.check_python("3.11.7", ">=3.11,<3.13"))[0] == "ok"
    assert only(machine.check_python("3.13.0", ">=3.11,<3.13")) == (
        "error",
        "Python 3.13.0, and >=3.11,<3.13 is needed",
    )


def test_system() -> None:
    assert only(machine.check_system("linux", "x86_64"))[0] == "ok"
    assert only(machine.check_system("darwin", "arm64"))[0] == "warning"


def test_gpu_seen_missing_silent_hidden_or_taken() -> None:
    assert only(machine.check_gpu(H100, {})) == ("ok", "1 x NVIDIA H100, driver 580.65.06, CUDA up to 13.0")
    assert only(machine.check_gpu(NONE, {}))[0] == "ok"
    assert only(machine.check_gpu(Driver(trouble="version mismatch"), {}))[0] == "error"
    assert levels(machine.check_gpu(H100, {"CUDA_VISIBLE_DEVICES": ""})) == ["ok", "warning"]
    taken = Driver((GPU("NVIDIA H100", 81559, 70000), GPU("NVIDIA H100", 81559, 5)), "580.65.06", (13, 0))
    assert judged(machine.check_gpu(taken, {}))[1] == ("warning", "GPU 0 is in use: 70000 of 81559 MiB are taken")


@pytest.mark.parametrize(
    ("driver", "torch", "cuda", "vllm", "expected"),
    [
        (H100, "2.11.0", "13.0", "0.24.0", "ok"),
        (H100, "2.11.0", None, "0.24.0", "error"),
        (H100, "2.11.0", "13.0", "0.24.0+cpu", "error"),
        (Driver(H100.gpus, "550.1", (12, 4)), "2.11.0", "13.0", "0.24.0", "error"),
        (Driver(H100.gpus, "550.1", (12, 4)), "2.11.0", "12.8", None, "ok"),
        (NONE, "2.11.0", "13.0", "0.24.0+cpu", "ok"),
        (NONE, "2.11.0", "13.0", "0.24.0", "error"),
        (NONE, None, None, None, "skipped"),
    ],
)
def test_wheels_fit_the_driver(
    driver: Driver, torch: str | None, cuda: str | None, vllm: str | None, expected: str
) -> None:
    assert only(machine.check_wheels(driver, torch, cuda, vllm))[0] == expected


def test_numa() -> None:
    states = [only(machine.check_numa(*facts))[0] for facts in ((True, True), (True, False), (False, False))]
    assert states == ["ok", "error", "skipped"]
    assert machine.can_load("libno-such-thing.so.7") is False


@pytest.mark.parametrize(
    ("line", "cuda"), [("cuda: Optional[str] = '13.0'", "13.0"), ("cuda = None", None), ("x = 1", None)]
)
def test_cuda_of_torch_is_read_from_its_version_file(line: str, cuda: str | None, tmp_path: Path) -> None:
    file = tmp_path / "version.py"
    file.write_text(f"from typing import Optional\n__version__ = '2'\n{line}\nhip: Optional[str] = None\n")
    assert machine.read_torch_cuda(file) == cuda


def said(code: int, stdout: str, stderr: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, stdout, stderr)


def test_driver_is_read_from_nvidia_smi() -> None:
    listed = "NVIDIA H100 80GB HBM3, 81559, 5, 580.65.06\nNVIDIA GB10, [N/A], [N/A], 580.65.06\n"
    driver = read_driver(lambda _: said(0, listed))
    assert driver.gpus == (GPU("NVIDIA H100 80GB HBM3", 81559, 5), GPU("NVIDIA GB10", 0, 0))
    assert driver.version == "580.65.06"
    assert read_driver(lambda _: said(9, "", "Driver/library version mismatch\n")).trouble.startswith("Driver/library")


def test_no_driver_is_no_trouble_and_a_silent_one_is() -> None:
    def absent(_: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError

    def silent(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(list(command), 10)

    assert read_driver(absent) == Driver()
    assert "timed out" in read_driver(silent).trouble
