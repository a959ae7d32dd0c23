"""A model that cannot be had is told at once: by what its folder lacks, or by what to download."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agentfly import model_source
from agentfly.errors import ConfigError
from agentfly.model_source import check_folder, find_model, hub_answers, is_local, require_policy


def test_paths_are_told_from_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    assert all(map(is_local, ["./a", "../a", "/a", "~/a", "runs/quickstart/policy", "policies"]))
    assert not any(map(is_local, ["owner/name", "name", "owner/name:file.pth", "hdfs://somewhere/a/b"]))


def test_a_folder_that_is_no_checkpoint_is_told_apart(tmp_path: Path) -> None:
    check_folder("owner/name")
    with pytest.raises(ConfigError, match=r"^--model /\S+/absent: there is no such folder: give a folder with a model"):
        check_folder(str(tmp_path / "absent"), option="--model")
    with pytest.raises(ConfigError, match=r"^out=/\S+ has no config\.json: give a folder with a model, as"):
        check_folder(str(tmp_path), option="out=")
    (tmp_path / "config.json").write_text("{}")
    check_folder(str(tmp_path))
    with pytest.raises(ConfigError, match=r"has a config\.json, but no weights \(\*\.safetensors\)"):
        check_folder(str(tmp_path), weights=True)
    (tmp_path / "model.safetensors").touch()
    check_folder(str(tmp_path), weights=True)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("adapter_config.json", r"it is an adapter; merge it .*`agentfly export RUN --out FOLDER`"),
        ("global_step_3/actor/x", r"it is a checkpoint of a training; .*`agentfly export RUN --out FOLDER`"),
        ("actor/x", "it is a checkpoint of a training"),
        ("policy/config.json", r"did you mean '\S+/policy'\?"),
    ],
)
def test_what_lies_in_the_folder_says_what_was_meant(tmp_path: Path, inside: str, words: str) -> None:
    (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / inside).touch()
    with pytest.raises(ConfigError, match=words):
        check_folder(str(tmp_path))


def test_without_the_hub_a_name_is_looked_up_in_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(model_source, "hub_answers", lambda: False)
    needed = r"^agentfly\.model=org/name is not on this machine and the hub .*hf download org/name --local-dir FOLDER"
    with pytest.raises(ConfigError, match=needed):
        find_model("org/name", option="agentfly.model=")
    kept = tmp_path / "models--org--name" / "snapshots" / "abc"
    kept.mkdir(parents=True)
    (kept.parents[1] / "refs").mkdir()
    (kept.parents[1] / "refs" / "main").write_text("abc")
    with pytest.raises(ConfigError, match="is not on this machine"):  # half a download
        find_model("org/name")
    (kept / "config.json").write_text("{}")
    assert find_model("org/name") == str(kept)
    assert find_model(str(kept)) == str(kept)
    assert find_model("s3://bucket/model") == "s3://bucket/model"
    with pytest.raises(ConfigError, match="is not on this machine"):  # no name that a hub could have
        find_model("a name: with what no name has")
    monkeypatch.setattr(model_source, "hub_answers", lambda: True)
    assert find_model("org/name") == "org/name"


def test_a_hub_that_is_switched_off_or_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub_answers()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not hub_answers()
    # A resolver that hangs: nothing that is waited for has a limit of its own.
    monkeypatch.setattr(model_source, "HUB_SECONDS", -0.9)
    monkeypatch.setattr("httpx.head", lambda *_, **__: time.sleep(1.0))
    begun = time.monotonic()
    assert not hub_answers()
    assert time.monotonic() - begun < 0.9


def test_a_policy_of_the_quickstart_that_was_not_made_yet() -> None:
    with pytest.raises(ConfigError, match=r"there is no policy at runs/nothing/policy: run `make quickstart` first"):
        require_policy("runs/nothing/policy")
