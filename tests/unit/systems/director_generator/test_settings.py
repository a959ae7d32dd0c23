"""Configuration files: the recipe's own load, the environment goes first, and every fault names its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.errors import ConfigError
from agentfly.systems.director_generator import load_studio
from tests.unit.systems.director_generator.conftest import RECIPE, Configure

CONFIG = RECIPE / "config"


@pytest.mark.parametrize("name", ["system_config.yaml", "system_config_openai.yaml"])
def test_the_recipes_own_files_load_with_the_documented_defaults(name: str) -> None:
    studio = load_studio(CONFIG / name, {})
    settings = studio.settings
    assert (settings.max_loops, settings.recursion_limit, settings.sdxl.mode) == (10, 1000, "mock")
    assert len(studio.directors) > 1
    assert len(studio.generators) > 1
    assert settings.vllm.api_base == "http://127.0.0.1:8000/v1"


def test_the_presets_name_the_documented_models() -> None:
    local, cloud = (load_studio(CONFIG / f"system_config{end}.yaml", {}).settings for end in ("", "_openai"))
    assert {model.model for model in local.models.values()} == {"qwen/Qwen2.5-VL-7B-Instruct"}
    assert {model.model for model in cloud.models.values()} == {"gpt-4o", "gpt-4o-mini"}


def test_environment_goes_before_the_file_and_keys_are_nowhere_else(configure: Configure) -> None:
    env = {
        "VLLM_API_BASE": "http://gpu:9000/v1",
        "OPENAI_API_KEY": "sk-1",
        "SDXL_API_BASE": "http://gpu:7001",
        "SDXL_FAILOVER_MODE": "mock",
        "STABILITY_API_KEY": "sk-2",
    }
    studio = load_studio(configure(), env, max_loops=3)
    settings = studio.settings
    assert settings.vllm.api_base == "http://gpu:9000/v1"
    assert (settings.sdxl.mode, settings.sdxl.api_base) == ("api", "http://gpu:7001")
    assert (settings.sdxl.failover_mode, settings.max_loops) == ("mock", 3)
    assert studio.keys.stability is not None
    assert studio.keys.stability.get_secret_value() == "sk-2"
    assert "sk-" not in settings.model_dump_json()
    assert "sk-1" not in repr(studio)


def test_a_wrong_variable_is_named_beside_the_file(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"system\.yaml \(with SDXL_API_BASE from the environment\): .*https"):
        load_studio(configure(), {"SDXL_API_BASE": "127.0.0.1:7000"})


def test_empty_variables_change_nothing(configure: Configure) -> None:
    studio = load_studio(configure(), {"SDXL_API_BASE": "", "SDXL_FAILOVER_MODE": "", "OPENAI_API_KEY": ""})
    assert (studio.settings.sdxl.mode, studio.settings.sdxl.failover_mode) == ("mock", "none")
    assert studio.keys.openai is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_loop": 3}, "Did you mean 'max_loops'"),
        ({"sdxl": {"mode": "mok"}}, "'mock', 'api' or 'local'"),
        ({"sdxl": {"size": "big"}}, "WIDTHxHEIGHT"),
        ({"roles": {"director": "qwen", "generator": "gwen"}}, "unknown model alias 'gwen'. Did you mean 'qwen'"),
        ({"evaluation_threshold": 101}, "less than or equal to 100"),
        ({"prompts": "/nowhere"}, "cannot read the prompt /nowhere/brief.md"),
        ({"directors": "/nowhere.json"}, "cannot read the personas /nowhere.json"),
        ({"models": {"qwen": {"model": "m", "sees_images": False}}}, "director 'Ada' judges images"),
        ({"models": {"qwen": {"model": "m", "sees_pictures": False}}}, "director 'Ada' judges images"),  # its old name
    ],
)
def test_wrong_settings_are_named(configure: Configure, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        load_studio(configure(**changes), {})


@pytest.mark.parametrize(
    ("personas", "words"),
    [
        ([], "is a list of personas"),
        (["Ada"], "an object with name and persona"),
        ([{"name": "Ada", "persona": "x"}, {"name": "ada", "persona": "y"}], "two personas are called 'Ada'"),
        ([{"name": "../Ada", "persona": "x"}], "name: String should match"),
    ],
)
def test_wrong_personas_are_named(configure: Configure, tmp_path: Path, personas: object, words: str) -> None:
    path = configure()
    (tmp_path / "directors.json").write_text(json.dumps(personas), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_studio(path, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("only words", "two parts"),
        ("# system\nYou are $nam\n# user\nGo", "unknown place 'nam'. Did you mean 'name'"),
        ("# system\nYou\n# user\nIt costs $ 5", "stray"),
    ],
)
def test_wrong_prompts_are_named(configure: Configure, tmp_path: Path, text: str, words: str) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for source in (RECIPE / "prompts").glob("*.md"):
        (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "brief.md").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        load_studio(configure(prompts=str(folder)), {})


def test_the_old_name_of_a_setting_is_accepted(configure: Configure) -> None:
    path = configure(models={"qwen": {"model": "m"}, "blind": {"model": "m", "sees_pictures": False}})
    assert load_studio(path, {}).settings.models["blind"].sees_images is False


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nothing.yaml"):
        load_studio(tmp_path / "nothing.yaml", {})
