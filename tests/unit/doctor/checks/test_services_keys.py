"""Keys by name."""

from __future__ import annotations

from pathlib import Path

from agentfly.doctor.checks import services
from tests.unit.doctor.judged import judged

SECRET = "sk-very-secret"


def states(variables: dict[str, str], base_url: str | None, home: Path) -> dict[str, str]:
    found = judged(services.check_keys(variables, base_url, home))
    assert all(SECRET not in message for _, message in found)
    return {key.variable: level for key, (level, _) in zip(services.KEYS, found, strict=True)}


def test_keys_that_are_not_needed_are_no_fault(tmp_path: Path) -> None:
    assert set(states({}, None, tmp_path).values()) == {"skipped"}
    assert set(states({}, "http://localhost:8000/v1", tmp_path).values()) == {"skipped"}


def test_a_key_that_is_needed(tmp_path: Path) -> None:
    url = "https://api.openai.com/v1"
    assert states({}, url, tmp_path)["OPENAI_API_KEY"] == "error"
    assert states({"OPENAI_API_KEY": SECRET}, url, tmp_path)["OPENAI_API_KEY"] == "ok"


def test_a_key_with_quotes_or_a_newline_is_no_key(tmp_path: Path) -> None:
    for spoilt in (f"{SECRET}\n", f'"{SECRET}"'):
        assert states({"OPENAI_API_KEY": spoilt}, None, tmp_path)["OPENAI_API_KEY"] == "error"


def test_a_key_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text(SECRET)
    found = states({}, None, tmp_path)
    assert (found["WANDB_API_KEY"], found["HF_TOKEN"]) == ("ok", "ok")
