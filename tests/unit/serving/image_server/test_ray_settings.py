"""The options of `agentfly serve-images --ray`: what they make of a deployment, and what is refused with a fix."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.errors import ConfigError
from agentfly.serving.image_server import ServerSettings
from agentfly.serving.image_server.http.app import create_app
from agentfly.serving.image_server.ray_settings import ReplicaSettings

CLASSICAL = ("--model-type", "classical", "--ray")
QWEN = ("--model-type", "qwen", "--model-path", "Qwen/Qwen-Image-Edit", "--ray")


def read(*options: str) -> tuple[ServerSettings, ReplicaSettings, str | None]:
    """Return what `agentfly serve-images` would deploy.

    Raises:
        ConfigError: the options are wrong.
    """
    with patch("agentfly.serving.image_server.ray_serve.serve_on_ray") as serve:
        shown = CliRunner().invoke(app, ["serve-images", *options])
    if shown.exception is not None:
        raise shown.exception
    settings, replicas, variable = serve.call_args.args
    return settings, replicas, variable


def test_one_replica_on_a_cpu_is_the_default() -> None:
    settings, replicas, variable = read(*CLASSICAL)
    assert settings == ServerSettings(model_type="classical")
    assert (replicas, variable) == (ReplicaSettings(), None)
    assert replicas.actor_options() == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert replicas.scaling(settings)["num_replicas"] == 1


def test_a_part_of_a_gpu_brings_the_device_with_it() -> None:
    settings, replicas, _ = read(*QWEN, "--gpus-per-replica", "0.5", "--replicas", "4", "--cpus-per-replica", "2")
    assert (settings.device, settings.replicas) == ("cuda", 4)
    assert settings.engine_options().device == "cuda"
    assert replicas.actor_options() == {"num_cpus": 2.0, "num_gpus": 0.5}
    assert replicas.scaling(settings)["num_replicas"] == 4


def test_the_number_follows_the_requests_between_two_limits() -> None:
    settings, replicas, _ = read(*QWEN, "--gpus-per-replica", "1", "--replicas", "2:8")
    scaling = replicas.scaling(settings)
    assert "num_replicas" not in scaling
    # As many requests as a replica holds at once: more would wait.
    expected = {"min_replicas": 2, "max_replicas": 8, "target_ongoing_requests": 4.0}
    assert scaling["autoscaling_config"] == expected
    settings, replicas, _ = read(*QWEN, "--gpus-per-replica", "1", "--replicas", "2:8", "--target-requests", "1.5")
    assert replicas.scaling(settings)["autoscaling_config"]["target_ongoing_requests"] == 1.5


def test_status_pages_need_not_wait_behind_the_work_that_a_replica_admits() -> None:
    settings, replicas, _ = read(*CLASSICAL, "--max-queue", "10")
    assert settings.admitted == 10 + settings.capacity + 16
    assert replicas.scaling(settings)["max_ongoing_requests"] == settings.admitted + 64


async def test_a_pool_is_told_what_all_replicas_take_at_once() -> None:
    settings, *_ = read(*CLASSICAL, "--replicas", "1:6")
    server = create_app(settings).state.server
    server.dispatcher.engine = "classical"
    assert (await server.models())["data"][0]["slots"] == 6 * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*CLASSICAL, "--replicas", "many"), "--replicas: give a number, or MIN:MAX"),
        ((*CLASSICAL, "--replicas", "0"), "--replicas: MIN is 1 or more"),
        ((*CLASSICAL, "--replicas", "3:2"), "--replicas: MIN is 1 or more, and MAX no less"),
        ((*CLASSICAL, "--gpus-per-replica", "1.5"), "--gpus-per-replica: Ray gives a part of one GPU"),
        ((*CLASSICAL, "--gpus-per-replica", "-1"), "--gpus-per-replica: .* greater than or equal to 0"),
        ((*CLASSICAL, "--target-requests", "0"), "--target-requests: .* greater than 0"),
        ((*CLASSICAL, "--start-timeout", "inf"), "--start-timeout: .* finite"),
        ((*CLASSICAL, "--workers", "2"), "--workers: each replica has one: give --replicas"),
        ((*QWEN, "--gpu-ids", "0"), "--gpu-ids: Ray chooses the GPUs of its replicas: give --gpus-per-replica"),
        ((*QWEN, "--gpu-ids", "0", "--gpus-per-replica", "1"), "--gpu-ids: Ray chooses"),
        ((*QWEN, "--device", "cuda"), "--device cuda: Ray reserves no GPU .* without --gpus-per-replica"),
        ((*CLASSICAL, "--port", "0"), "--port 0: Ray Serve takes no free port"),
        ((*CLASSICAL, "--max-requests-per-minute", "9"), "--max-requests-per-minute: each replica would count by"),
        (("--model-type", "classical", "--replicas", "2"), "--replicas is about the replicas of Ray Serve: add --ray"),
        (("--model-type", "classical", "--gpus-per-replica", "1"), "--gpus-per-replica is about .*: add --ray"),
        ((*CLASSICAL, "--api-key-env", "NO_SUCH_VARIABLE"), "the environment variable NO_SUCH_VARIABLE is not set"),
    ],
)
def test_wrong_options_name_the_fix(options: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(*options)
