"""What is handed to Ray Serve, without a cluster: no key, and a class that makes the application of a server."""

from __future__ import annotations

import sys

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from agentfly.errors import ConfigError, MissingExtraError
from agentfly.serving.image_server import ServerSettings
from agentfly.serving.image_server.ray_serve import ImageReplica, _reason, deployment_of
from agentfly.serving.image_server.ray_settings import ReplicaSettings
from tests.unit.serving.image_server.running import as_text, plain

SECRET = "secret-of-the-operator"
SETTINGS = ServerSettings(model_type="classical", api_key=SecretStr(SECRET), shutdown_grace=7.0)


def made(variable: str | None = None, **changes: object) -> ImageReplica:
    options = {**SETTINGS.model_dump(mode="json", exclude={"api_key"}), **changes}
    return ImageReplica(options, variable)


@pytest.mark.slow
def test_nothing_that_ray_is_given_has_the_key() -> None:
    pytest.importorskip("ray.serve", exc_type=ImportError)
    from ray import cloudpickle

    application = deployment_of(SETTINGS, ReplicaSettings(replicas=(2, 2)), "IMAGE_KEY")
    text = cloudpickle.dumps(application)
    assert b"IMAGE_KEY" in text
    assert SECRET.encode() not in text


def test_without_ray_serve_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--ray needs the optional packages of extra \[ray-serve\]"):
        deployment_of(SETTINGS, ReplicaSettings(), None)


def test_a_replica_without_the_variable_says_where_to_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGE_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"IMAGE_KEY: the variable is not set on the node .*before `ray start`"):
        made("IMAGE_KEY")


def test_a_replica_refuses_what_a_server_by_itself_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_KEY", SECRET)
    replica = made("IMAGE_KEY", limits={"body_bytes": 4096})
    # No lifespan: the checks are before the engine.
    client = TestClient(replica.__serve_build_asgi_app__(), base_url="http://localhost")
    key = {"Authorization": f"Bearer {SECRET}"}
    body = {"prompt": "darker", "image": as_text(plain())}
    assert client.post("/v1/images/edits", json=body).status_code == 401
    assert client.post("/v1/images/edits", json=body, headers={"Authorization": "Bearer wrong"}).status_code == 401
    large = {**body, "prompt": "x" * 5000}
    assert client.post("/v1/images/edits", json=large, headers=key).status_code == 413
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/health", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/health").status_code == 503


async def test_an_engine_that_cannot_be_loaded_is_the_replicas_failure() -> None:
    replica = made()
    replica.__serve_build_asgi_app__()
    dispatcher = replica._dispatcher
    assert dispatcher is not None
    dispatcher.known.set()
    await replica.check_health()
    dispatcher.fatal_message = "no weights here"
    with pytest.raises(ConfigError, match="no weights here"):
        await replica.check_health()


def test_the_reason_is_taken_out_of_serves_tracebacks() -> None:
    lines = (
        "The deployment failed to start 2 times in a row:",
        '  File "x.py", line 1',
        "agentfly.errors.ConfigError: no weights",
        "During handling of this another happened:",
        "RuntimeError: Traceback (most recent call last)",
    )
    assert _reason("\n".join(lines)) == "no weights"
    assert _reason("a\nthe last\n") == "the last"
    assert _reason("") == "the replicas cannot be started"
