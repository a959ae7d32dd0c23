"""verl gets a complete CPU platform, only when asked for, and a value model that fits its critic."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from agentfly.errors import TrainingError

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
from verl.plugin.platform import PlatformRegistry, platform_manager  # noqa: E402

from agentfly.training.cpu import CPUPlatform, check_platform  # noqa: E402
from agentfly.training.cpu import platform as cpu_platform  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """verl before it has chosen a platform."""
    monkeypatch.setattr(platform_manager, "_current_platform", None)
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    return monkeypatch


def test_the_platform_is_complete_and_registered() -> None:
    # An abstract method that a later verl adds would make this call fail.
    platform = CPUPlatform()
    assert PlatformRegistry.get("cpu") is CPUPlatform
    assert torch.ones(1).to(platform.current_device()).device.type == "cpu"
    assert platform.ray_resource_options(1) == {"num_gpus": 1}


def test_it_is_never_chosen_unasked(fresh: pytest.MonkeyPatch) -> None:
    # A Ray actor without GPU on a machine with GPUs sees none either.
    assert not CPUPlatform().is_platform_available(use_smi_check=True)
    fresh.setenv("VERL_PLATFORM", "cpu")
    assert platform_manager.get_platform().device_name == "cpu"


def test_device_module_answers_what_verl_asks_of_cuda() -> None:
    module = CPUPlatform().device_module
    assert module.memory_allocated() == module.max_memory_reserved() == 0
    assert module.current_device() == "cpu"
    available, total = module.mem_get_info()
    assert 0 < available < total
    state = module.get_rng_state()
    first = torch.rand(3)
    module.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
    with pytest.raises(AttributeError):
        _ = module.no_such_function


def test_rollout_gets_no_empty_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    environment = CPUPlatform().rollout_env_vars()
    assert environment["OMP_NUM_THREADS"] == "2"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment


def entry_points(*values: str) -> Any:
    return lambda group: [EntryPoint("agentfly_cpu", value, group) for value in values]


def test_check_passes_on_the_cpu_platform(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("VERL_PLATFORM", "cpu")
    fresh.setattr(cpu_platform, "entry_points", entry_points(cpu_platform.PLUGIN))
    check_platform()


@pytest.mark.parametrize(
    ("values", "platform", "message"),
    [
        ((), "cpu", "entry point is missing"),
        ((cpu_platform.PLUGIN,), "nvidia", "VERL_PLATFORM=cpu"),
        ((cpu_platform.PLUGIN,), "no-such", "cannot load.*no-such"),
    ],
)
def test_check_names_the_cause(fresh: pytest.MonkeyPatch, values: tuple[str, ...], platform: str, message: str) -> None:
    fresh.setenv("VERL_PLATFORM", platform)
    fresh.setattr(cpu_platform, "entry_points", entry_points(*values))
    with pytest.raises(TrainingError, match=message):
        check_platform()


def test_process_group_and_engines_are_made_for_a_training_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch.distributed as dist
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers.engine.base import EngineRegistry

    monkeypatch.setattr(platform_manager, "_current_platform", CPUPlatform())
    group = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    for name, value in {**group, "DIST_INIT_METHOD": f"file://{tmp_path}/store"}.items():
        monkeypatch.setenv(name, value)
    try:
        # verl's own call, which would ask torch for "cpu:gloo,cpu:gloo" and be refused.
        initialize_global_process_group_ray()
        dist.all_reduce(total := torch.ones(1))
        assert total.item() == 1
    finally:
        dist.destroy_process_group()
    for model_type in ("language_model", "value_model"):
        assert EngineRegistry.get_engine_cls(model_type, "fsdp2").__module__ == "agentfly.training.cpu.engines"


def test_the_backend_name_alone_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert CPUPlatform().communication_backend_name() == "gloo"
    assert not torch.distributed.is_initialized()


def tiny_vlm() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 32,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [0],
        },
    )
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config)


def test_value_model_is_the_policys_backbone_with_a_zero_head(tmp_path: Path) -> None:
    from agentfly.training.cpu.engines import build_value_model

    policy = tiny_vlm()
    policy.save_pretrained(tmp_path)
    # A checkpoint names its weights otherwise than the model does; transformers renames them by class.
    critic: Any = build_value_model(str(tmp_path), policy.config)
    ours, theirs = critic.model.state_dict(), policy.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    values = critic(input_ids=torch.arange(10).view(2, 5)).logits
    assert values.shape == (2, 5, 1)
    assert torch.count_nonzero(values) == 0
    values.sum().backward()
    assert torch.count_nonzero(critic.score.weight.grad) > 0
    assert not any("lm_head" in name for name, _ in critic.named_parameters())


def test_a_critic_with_a_random_backbone_is_refused(tmp_path: Path) -> None:
    from agentfly.training.cpu.engines import build_value_model

    policy = tiny_vlm()
    policy.save_pretrained(tmp_path, state_dict={"lm_head.weight": policy.lm_head.weight})
    with pytest.raises(TrainingError, match="backbone are missing"):
        build_value_model(str(tmp_path), policy.config)


def test_a_trained_value_head_survives_saving(tmp_path: Path) -> None:
    from agentfly.training.cpu.engines import value_model_class

    config = tiny_vlm().config
    model: Any = value_model_class(config)
    critic = model(config)
    torch.nn.init.ones_(critic.score.weight)
    critic.save_pretrained(tmp_path)
    assert torch.equal(model.from_pretrained(tmp_path, config=config).score.weight, critic.score.weight)


def test_log_probs_are_those_of_verl_without_its_loop_over_rows() -> None:
    """verl's own take a second of Python a step: the engine gives them a row a token."""
    import verl.utils.torch_functional as functional

    from agentfly.training.cpu.engines import log_probs, register_engines

    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn((40, 30), generator=generator).mul_(9).requires_grad_() for _ in range(2)]
    logits[1].data.copy_(logits[0].data)
    labels = torch.randint(30, (40,), generator=generator)
    found = log_probs(logits[0], labels)
    wanted = torch.log_softmax(logits[1], dim=-1)[torch.arange(40), labels]
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(logits[0].grad, logits[1].grad)
    register_engines()
    assert torch.equal(functional.logprobs_from_logits(logits[0], labels), found)


def test_linear_layers_of_the_rollout_follow_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that vLLM has packed computes with the weights of before an update, or has lost its parameter."""
    pytest.importorskip("vllm")
    from vllm import _custom_ops
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    from agentfly.training.cpu.vllm_worker import CPUWorkerExtension

    # Fails where vLLM has no such flag any more; it gets its value back in the end.
    monkeypatch.setattr(_custom_ops, "_supports_onednn", _custom_ops._supports_onednn)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", torch.cpu._is_amx_tile_supported)
    monkeypatch.setattr(CPUWorkerExtension.__mro__[1], "__new__", lambda cls, **_: object.__new__(cls))
    CPUWorkerExtension()
    layer, inputs = torch.nn.Linear(32, 16, bias=False).requires_grad_(False), torch.rand(2, 32)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    layer.weight.copy_(torch.eye(16, 32))
    assert torch.equal(layer.cpu_linear(inputs, layer.weight, None), inputs[:, :16])
    # A processor with AMX tiles has convolutions packed, too.
    convolution = torch.nn.Conv1d(64, 64, 4, groups=64, bias=False).requires_grad_(False)
    dispatch_cpu_unquantized_gemm(convolution, remove_weight=False)
    assert convolution.weight.shape == (64, 1, 4)


def test_vllm_still_asks_in_one_way_for_amx_tiles() -> None:
    utils = pytest.importorskip("vllm.model_executor.layers.utils")
    source = Path(utils.__file__).read_text(encoding="utf-8")
    assert "if torch.cpu._is_amx_tile_supported():\n            # prepack conv weight" in source
