"""A recipe becomes one complete configuration: values arrive, what follows is filled in, no key is made up."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentfly.agents.image_editing import SYSTEM_PROMPT
from agentfly.agents.policy_config import PolicyConfig
from agentfly.errors import ConfigError
from agentfly.training.recipe.compose import (
    CONFIG_DIR,
    TEXT_CHAINS,
    compose,
    settings_of,
    to_override,
    unknown_key,
    write,
)

pytest.importorskip("hydra")
pytest.importorskip("verl")
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

pytestmark = pytest.mark.slow

RECIPE = """
defaults:
  - agentfly
  - _self_
  - device: cuda

agentfly:
  model: some/policy
  data:
    train: stickers

actor_rollout_ref:
  rollout:
    n: 4
    tensor_model_parallel_size: 2

trainer:
  n_gpus_per_node: 8
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for a machine with 8 GPUs."""
    path = tmp_path_factory.mktemp("recipes") / "mine.yaml"
    path.write_text(RECIPE)
    return path


def composed(recipe: Path, *overrides: str) -> Any:
    return compose(recipe, ["agentfly.out=runs/one", *overrides])


# Those that choose a device are whole; the others are what recipes share.
PACKAGED = sorted(path.stem for path in CONFIG_DIR.glob("*.yaml") if "- device:" in path.read_text())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_configurations_compose_on_every_device(name: str, device: str) -> None:
    # A key of ours that verl has renamed is an unknown key: this is where a new verl shows.
    config = composed(
        CONFIG_DIR / f"{name}.yaml", "agentfly.model=m", "agentfly.data.train=stickers", f"device={device}"
    )
    assert config.agentfly.device == device
    assert config.trainer.device == device
    # Seeded turns whose prompt is cut in two would kill vLLM's engine on a CPU.
    assert config.actor_rollout_ref.rollout.enable_chunked_prefill is (device != "cpu")


@pytest.mark.parametrize(
    "override",
    [
        "+agentfly.environment.WANDB_API_KEY=sk-secret",
        "+agentfly.data.options.token=sk-secret",
        "agentfly.evaluator={evaluator: x, headers: {Authorization: sk-secret}}",
    ],
)
def test_keys_in_a_recipe_are_refused_as_it_is_stored_with_the_run(recipe: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="keys do not belong into the recipe") as caught:
        settings_of(composed(recipe, override))
    assert "sk-secret" not in str(caught.value)


def test_settings_of_an_older_run_that_hold_a_key_are_still_read(recipe: Path) -> None:
    config = composed(recipe)
    OmegaConf.update(config, "agentfly.environment", {"WANDB_API_KEY": "sk-secret"}, force_add=True)
    assert settings_of(config).environment == {"WANDB_API_KEY": "sk-secret"}


def test_a_stored_recipe_with_a_password_in_an_address_is_for_its_owner_alone(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    write(composed(recipe), file)
    assert file.stat().st_mode & 0o044
    url = "http://me:pa55word@h:1"
    config = composed(recipe, f"agentfly.evaluator={{evaluator: http, base_url: '{url}'}}")
    assert settings_of(OmegaConf.load(write(config, file))).evaluator == {"evaluator": "http", "base_url": url}
    assert file.stat().st_mode & 0o077 == 0


def test_images_may_have_their_old_name(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert settings_of(composed(recipe, "agentfly.pictures=true")).images
    assert "agentfly.pictures is now called agentfly.images" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "max_gb"),
    [
        ((), 10.0),
        (("agentfly.images.max_gb=2",), 2.0),
        (("agentfly.images={max_gb: null}",), None),
        (("agentfly.images=false",), "off"),
        (("agentfly.pictures=false",), "off"),
        (("agentfly.images=true",), 10.0),
    ],
)
def test_images_are_kept_with_a_limit(recipe: Path, tmp_path: Path, overrides: tuple[str, ...], max_gb: object) -> None:
    # A saved configuration is read as it was composed.
    for config in (made := composed(recipe, *overrides), OmegaConf.load(write(made, tmp_path / "config.yaml"))):
        found = settings_of(config).images
        assert ("off" if found is None else found.max_gb) == max_gb


def test_a_run_is_called_like_its_folder_in_every_logger(recipe: Path) -> None:
    assert composed(recipe, "agentfly.out=runs/mine").trainer.experiment_name == "mine"
    assert composed(recipe, "trainer.experiment_name=other").trainer.experiment_name == "other"


def test_values_of_recipe_and_overrides_arrive(recipe: Path) -> None:
    config = composed(
        recipe,
        "trainer.nnodes=4",
        "agentfly.seed=7",
        "agentfly.limits.max_images=5",
        "agentfly.evaluator={evaluator: judge, model: some-vlm}",
        "agentfly.client_nodes=[a:1,b:2]",
        "actor_rollout_ref.rollout.temperature=0.7",
        "+actor_rollout_ref.rollout.engine_kwargs.vllm.max_num_seqs=3",
    )
    assert config.trainer.nnodes == 4
    assert config.actor_rollout_ref.rollout.n == 4
    # One value of ours stands behind several of verl's.
    assert config.data.seed == config.actor_rollout_ref.rollout.seed == config.critic.fsdp.seed == 7
    vllm = config.actor_rollout_ref.rollout.engine_kwargs.vllm
    assert (vllm.limit_mm_per_prompt.image, vllm.limit_mm_per_prompt.video, vllm.max_num_seqs) == (5, 0, 3)
    assert config.trainer.default_local_dir == str(Path("runs/one").absolute() / "checkpoints")
    settings = settings_of(config)
    assert settings.evaluator == {"evaluator": "judge", "model": "some-vlm"}
    assert settings.client_nodes == ("a:1", "b:2")
    # Sampled at a temperature, so the probabilities that are compared must be those after it.
    assert config.actor_rollout_ref.rollout.logprobs_mode == "processed_logprobs"


def test_an_engine_on_several_accelerators_of_a_cpu_has_a_process_for_each(recipe: Path) -> None:
    executors = []
    for size in (1, 2):
        sizes = [f"trainer.n_gpus_per_node={size}", f"actor_rollout_ref.rollout.tensor_model_parallel_size={size}"]
        rollout = composed(recipe, "device=cpu", *sizes).actor_rollout_ref.rollout
        executors.append(rollout.engine_kwargs.vllm.distributed_executor_backend)
    assert executors == ["uni", "mp"]


def test_what_follows_from_other_values_is_filled_in(recipe: Path, tmp_path: Path) -> None:
    lengths = ["data.max_prompt_length=3000", "data.max_response_length=1000"]
    tokens = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8000"
    config = composed(recipe, *lengths, tokens, f"agentfly.model={tmp_path}", "device=cpu")
    rollout = config.actor_rollout_ref.rollout
    assert rollout.max_model_len == rollout.max_num_batched_tokens == 4000
    assert rollout.logprobs_mode == "raw_logprobs"
    # The device takes back what a recipe for GPUs has set.
    assert (rollout.tensor_model_parallel_size, config.trainer.n_gpus_per_node) == (1, 1)
    assert config.critic.ppo_max_token_len_per_gpu == 8000
    assert settings_of(config).seeded
    assert config.actor_rollout_ref.model.path == config.critic.model.path == str(tmp_path)
    assert Path(config.data.train_files).is_absolute()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.nnodess=4", r"unknown key of trainer 'nnodess'\. Did you mean 'nnodes'\?.*\+trainer\.nnodess="),
        ("agentfly.modle=4", r"unknown setting 'agentfly\.modle'\. Did you mean 'agentfly\.model'"),
        ("agentfly.limits.max_turn=4", r"limits.*'max_turn'\. Did you mean 'max_turns'"),
        ("device=tpu", "device/tpu"),
        ("trainer.nnodes=", r"trainer\.nnodes must be a whole number of 1 or more, not ''"),
        ("agentfly.client_nodes=[localhost]", "^agentfly.client_nodes: 'localhost' has no port: write HOST:PORT"),
        ("agentfly.client_nodes=[{base_url: a:1, api_key_env: NO_SUCH}]", "^agentfly.client_nodes: .* NO_SUCH is not"),
    ],
)
def test_a_wrong_override_is_named(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        composed(recipe, override)


def test_threads_compose_beside_each_other(recipe: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda n: composed(recipe, f"agentfly.seed={n}").agentfly.seed, range(2)))
    assert found == [0, 1]


def test_a_plus_adds_what_verls_files_do_not_show(recipe: Path) -> None:
    assert composed(recipe, "+trainer.mine.deep=4").trainer.mine.deep == 4


def test_an_unknown_key_of_a_recipe_is_named(recipe: Path) -> None:
    # Hydra takes any key from a file, and verl ignores what it does not know.
    wrong = recipe.with_name("wrong.yaml")
    wrong.write_text(RECIPE.replace("    n: 4", "    nn: 4"))
    with pytest.raises(ConfigError, match=r"unknown key of actor_rollout_ref\.rollout 'nn'\. Did you mean 'n'"):
        composed(wrong)


def test_a_missing_value_and_an_unknown_recipe_are_named(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"agentfly\.out is missing: set it in the recipe or as key=value"):
        compose(recipe)
    with pytest.raises(ConfigError, match=r"unknown recipe 'mine2'\. Did you mean 'mine'"):
        compose(recipe.with_name("mine2.yaml"))
    with pytest.raises(ConfigError, match="there is no recipe"):
        compose(recipe.parent / "nowhere" / "x.yaml")


def test_what_is_written_is_read_back_equal(recipe: Path, tmp_path: Path) -> None:
    prompt = to_override("agentfly.system_prompt", 'it\'s ${price}: a "b" [c] {d}')
    config = composed(recipe, prompt)
    read = OmegaConf.load(write(config, tmp_path / "run" / "config.yaml"))
    assert OmegaConf.to_container(read, resolve=True) == OmegaConf.to_container(config, resolve=True)
    assert settings_of(read).system_prompt == 'it\'s ${price}: a "b" [c] {d}'


def test_the_nearest_key_has_the_same_parents() -> None:
    known = {"a.b.learning", "a.c", "b.learn"}
    assert "unknown key of a.b 'learnin'. Did you mean 'learning'" in unknown_key("a.b.learnin", known)
    assert "unknown key 'd'. Valid: a, b" in unknown_key("d.learn", known)


@example("\\${x}")
@example("\\\\${x}")
@example("it\\'s ${")
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20))
def test_any_text_survives_hydras_grammar(text: str) -> None:
    parsed = OverridesParser.create().parse_override(to_override("key", f"/data/{text}/"))
    # OmegaConf reads interpolations when a value is looked up.
    assert OmegaConf.create({"key": parsed.value()}).key == f"/data/{text}/"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "k=null"),
        (True, "k=true"),
        (1e-6, "k=1e-06"),
        (3, "k=3"),
        (["a", "b"], "k=['a','b']"),
        ({"a": [1, None]}, "k={a:[1,null]}"),
    ],
)
def test_other_values(value: Any, written: str) -> None:
    assert to_override("k", value) == written


def test_the_class_of_an_agent_brings_its_prompt_and_a_card_its_agent(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_agent_of_a_recipe.py").write_text(
        "from agentfly.agents import ImageEditingAgent\n\n\n"
        "class Own(ImageEditingAgent):\n    default_system_prompt = 'Edit ${well}.'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    named = "own_agent_of_a_recipe:Own"
    config = composed(recipe, f"agentfly.agent={named}")
    # What is written is read again as it was.
    written = OmegaConf.load(write(config, tmp_path / "config.yaml"))
    assert settings_of(written).card().system_prompt == "Edit ${well}."
    assert settings_of(composed(recipe, f"agentfly.agent={named}", "agentfly.system_prompt=Mine")).card().agent == named
    policy = tmp_path / "policy"
    policy.mkdir()
    PolicyConfig(agent=named, tools=("edit",), system_prompt="As trained.").write(policy)
    settings = settings_of(composed(recipe, f"agentfly.model={policy}", "agentfly.agent=card"))
    assert (settings.agent, settings.tools, settings.card().system_prompt) == (named, ("edit",), "As trained.")
    with pytest.raises(ConfigError, match="agent=card"):
        composed(recipe, f"agentfly.model={policy}")
    # Further arguments make no other agent of it: it keeps the prompt that `agentfly edit` gives it, too.
    again = f"agentfly.agent={{agent: '{named}', max_requests_per_minute: 5}}"
    settings = settings_of(composed(recipe, f"agentfly.model={policy}", again))
    assert settings.card().system_prompt == "As trained."
    settings = settings_of(composed(recipe, f"agentfly.model={policy}", "agentfly.agent=image-editing"))
    assert settings.card().system_prompt == SYSTEM_PROMPT


def test_the_tools_of_a_card_stay_with_the_run_when_the_policy_is_gone(recipe: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy"
    policy.mkdir()
    PolicyConfig(tools=("edit", "look")).write(policy)
    config = composed(recipe, f"agentfly.model={policy}")
    shutil.rmtree(policy)
    assert settings_of(config).card().tools == ("edit", "look")


def test_an_agent_that_edits_no_images_is_not_told_to(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talking_agent_of_a_recipe.py").write_text(
        "from agentfly.agents import Agent\n\n\nclass Talking(Agent): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (
        settings_of(composed(recipe, "agentfly.agent=talking_agent_of_a_recipe:Talking")).card().system_prompt is None
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), TEXT_CHAINS),
        (("actor_rollout_ref.model.external_lib=mine",), ["mine", TEXT_CHAINS]),
        ((f"actor_rollout_ref.model.external_lib=[mine,{TEXT_CHAINS}]",), ["mine", TEXT_CHAINS]),
    ],
)
def test_verl_imports_our_part_of_the_model_beside_a_persons_own(
    recipe: Path, given: tuple[str, ...], named: Any
) -> None:
    assert OmegaConf.to_container(composed(recipe, *given).actor_rollout_ref.model)["external_lib"] == named


def test_the_judges_of_a_large_run_are_audited_and_keep_their_questions_with_the_run(tmp_path: Path) -> None:
    recipe = tmp_path / "judged.yaml"
    recipe.write_text(RECIPE.replace("- agentfly", "- large"))
    judge = to_override("agentfly.evaluator", {"evaluator": "questions", "model": "m"})
    out = to_override("agentfly.out", str(tmp_path / "run"))
    config = compose(recipe, [judge, out])
    assert config.agentfly.evaluator.cache == str(tmp_path / "run" / "questions")
    audit = settings_of(config).audit
    assert audit is not None
    assert audit.evaluator["how"] == "first"  # type: ignore[index]
    other = settings_of(compose(recipe, [judge, out, "agentfly.audit={evaluator: similarity}"])).audit
    assert other is not None
    assert other.evaluator == "similarity"
    # A resumed run is read from its file.
    written = write(config, tmp_path / "run" / "config.yaml")
    assert settings_of(compose(written)).audit == audit


ON_CPU = ("device=cpu", "actor_rollout_ref.rollout.tensor_model_parallel_size=1", "actor_rollout_ref.rollout.nnodes=1")


def test_an_asynchronous_trainer_gets_its_buffer_and_on_a_cpu_its_accelerators(recipe: Path) -> None:
    sync, shared = composed(recipe), composed(recipe, "trainer.v1.trainer_mode=colocate_async")
    assert sync.trainer.v1.sampler.custom_sampler.name == "WatchfulReplayBuffer"
    assert shared.trainer.v1.sampler.custom_sampler.name == "WatchfulReplayBufferAsync"
    own = composed(
        recipe,
        "trainer.v1.trainer_mode=colocate_async",
        "trainer.v1.sampler.custom_sampler={path: mine.py, name: Mine}",
    )
    assert own.trainer.v1.sampler.custom_sampler.name == "Mine"
    mode = ("trainer.v1.trainer_mode=separate_async", "trainer.v1.separate_async.parameter_sync_step=1")
    apart = composed(recipe, *ON_CPU, *mode)
    assert apart.ray_kwargs.ray_init.num_gpus == 2
    assert apart.actor_rollout_ref.rollout.checkpoint_engine.backend == "gloo"
    assert apart.actor_rollout_ref.hybrid_engine is False
    # The rest of an interrupted turn would draw the numbers of its beginning again.
    assert composed(recipe, *ON_CPU).agentfly.seeded is True
    assert apart.agentfly.seeded is False
    many = composed(recipe, *ON_CPU, *mode, "trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=6")
    assert (many.actor_rollout_ref.rollout.n_gpus_per_node, many.ray_kwargs.ray_init.num_gpus) == (2, 6)


def test_refill_and_curriculum_set_what_verl_needs(recipe: Path, tmp_path: Path) -> None:
    plain = composed(recipe)
    assert (plain.data.gen_batch_size, plain.data.custom_cls.path, plain.data.curriculum) == (None, None, None)
    given = ["agentfly.refill=true", "agentfly.curriculum={candidates: 2}", "data.dataloader_num_workers=4"]
    config = composed(recipe, *given)
    assert (config.data.gen_batch_size, config.data.dataloader_num_workers) == (1, 0)
    assert dict(config.data.curriculum) == {"candidates": 2, "half_life": 20.0, "strength": 2.0, "chains": 4}
    assert config.data.custom_cls.name == "CurriculumDataset"
    # A run is continued from what it wrote.
    again = compose(write(config, tmp_path / "config.yaml"))
    assert (again.data.curriculum, again.data.gen_batch_size) == (config.data.curriculum, 1)
    assert settings_of(again) == settings_of(config)


@pytest.mark.parametrize("wrong", ["agentfly.refill=often", "agentfly.refill={most: 0}", "agentfly.curriculum={n: 2}"])
def test_wrong_settings_of_the_sampling_are_refused(recipe: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"refill|curriculum|unknown setting 'n'"):
        settings_of(composed(recipe, wrong))


def test_the_loss_of_the_bypass_mode_is_used_where_that_is_asked_for(recipe: Path, tmp_path: Path) -> None:
    loss = composed(recipe).actor_rollout_ref.actor.policy_loss
    assert (loss.loss_mode, "rollout_correction" in loss) == ("vanilla", False)
    correction = "algorithm.rollout_correction={bypass_mode: true, loss_type: reinforce, rollout_is: token}"
    config = composed(recipe, correction)
    loss = config.actor_rollout_ref.actor.policy_loss
    assert (loss.loss_mode, loss.rollout_correction.loss_type) == ("bypass_mode", "reinforce")
    again = compose(write(config, tmp_path / "config.yaml"))
    assert again.actor_rollout_ref.actor.policy_loss == loss
    # Another loss is somebody's choice.
    other = composed(recipe, correction, "actor_rollout_ref.actor.policy_loss.loss_mode=gspo")
    assert other.actor_rollout_ref.actor.policy_loss.loss_mode == "gspo"
