"""The family and the sizes of a policy: from its folder, from the hub's cache, or by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.templates.families import PUBLISHED, find_family
from agentfly.training.recipe import policy_sizes
from agentfly.training.recipe.policy_sizes import count_parameters, sizes_of

PARAMETERS, HIDDEN, LAYERS, WORDS = 1000, 8, 3, 50
NAME = "Qwen/Qwen2.5-VL-3B-Instruct"


def write_weights(path: Path, *shapes: tuple[int, ...]) -> None:
    """The header of a safetensors file; nobody reads further."""
    header = {f"w{i}": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for i, shape in enumerate(shapes)}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def write_config(folder: Path, model_type: str | None = None) -> None:
    text = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": WORDS}
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "hidden_size": 1, "text_config": text}))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A checkpoint of 1000 parameters in two files."""
    write_weights(tmp_path / "model-1.safetensors", (30, 20), (100,), ())
    write_weights(tmp_path / "model-2.safetensors", (299,))
    write_config(tmp_path, "qwen3_vl")
    return tmp_path


def test_parameters_are_those_that_torch_counts(tiny_policy: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(tiny_policy))
    assert count_parameters(tiny_policy) == sum(weight.numel() for weight in model.parameters())


def test_an_interrupted_download_is_not_counted(policy: Path) -> None:
    assert count_parameters(policy) == PARAMETERS
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (policy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert count_parameters(policy) == PARAMETERS
    (policy / "model-2.safetensors").unlink()
    assert count_parameters(policy) is None


def test_a_folder_tells_its_family_and_sizes(policy: Path) -> None:
    found = sizes_of(str(policy))
    assert (found.parameters, found.hidden, found.layers, found.vocabulary) == (PARAMETERS, HIDDEN, LAYERS, WORDS)
    expected = "Qwen3-VL (qwen3_vl), level trained: token-exact rollouts on vLLM, trained with verl"
    assert found.family_in_words() == expected


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("qwen3_5_moe", "level token-exact: token-exact rollouts on vLLM; not tried yet: a step of verl"),
        ("smolvlm", "level endpoint: works as an endpoint, not token-exact"),
        ("bert", "model type bert: of no family that was tried"),
    ],
)
def test_levels_that_are_lower_are_said(policy: Path, model_type: str, words: str) -> None:
    write_config(policy, model_type)
    assert words in sizes_of(str(policy)).family_in_words()


def test_a_published_model_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_sizes, "cached_copy", lambda model: None)
    found = sizes_of(NAME)
    assert (found.parameters, found.hidden) == (3_754_622_976, 2048)
    assert found.family_in_words().endswith("(by the name: config.json is not on this machine)")


def test_a_copy_in_the_cache_comes_before_the_name(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_sizes, "cached_copy", lambda model: policy)
    assert sizes_of(NAME).parameters == PARAMETERS
    # Only the configuration was downloaded.
    for weights in policy.glob("*.safetensors"):
        weights.unlink()
    found = sizes_of(NAME)
    assert (found.model_type, found.hidden, found.parameters) == ("qwen3_vl", HIDDEN, PUBLISHED[NAME].parameters)


def test_other_names_and_empty_folders_are_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_sizes, "cached_copy", lambda model: None)
    found = sizes_of("somebody/their-model")
    assert (found.parameters, found.model_type) == (None, None)
    reason = "config.json is not on this machine, and somebody/their-model is not in the table of published models"
    assert found.family_in_words() == f"unknown: {reason}"
    assert sizes_of(str(tmp_path)).family_in_words() == f"unknown: config.json is not in {tmp_path}"


def test_published_models_are_of_families_that_are_known() -> None:
    for name, model in PUBLISHED.items():
        family = find_family(model.model_type)
        assert family is not None, name
        # The number in the name, which counts neither exactly nor always the same weights.
        billions = float(name.split("-")[-2 if name.endswith("Instruct") else -1].removesuffix("B"))
        assert 0.9 * billions < model.parameters / 1e9 < 1.3 * billions
