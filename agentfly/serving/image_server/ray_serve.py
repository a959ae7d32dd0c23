"""Image servers as replicas of Ray Serve: `agentfly serve-images --ray`.

Each replica is the application of a server by itself, with one worker process. Serve's proxy on the head node of the
cluster has the one address, and gives each request to one of two replicas, the one with fewer requests.

The key of the server never goes through Ray: Serve shows the options of a deployment, and Ray the variables of a
runtime environment, also on the command lines of its processes (ray/_private/workers/setup_worker.py:16). A replica
reads it from the environment that its node was started with.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from agentfly.errors import AgentFlyError, ConfigError, MissingExtraError
from agentfly.redaction import log_to_stderr, read_key
from agentfly.serving.hosts import AllowedHosts, is_loopback
from agentfly.serving.image_server.ray_settings import ReplicaSettings
from agentfly.serving.image_server.settings import ServerSettings

if TYPE_CHECKING:
    from agentfly.serving.http_server import Front
    from agentfly.serving.image_server.workers.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

APPLICATION, DEPLOYMENT = "agentfly-images", "images"
_ADDRESS = "RAY_ADDRESS"
# For the Ray of this machine alone. Ray gives its workers niceness 15, and reports the use of each cluster.
_LOCAL_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
# Times that Serve tries to start a replica; an engine that cannot be loaded fails in the same way each time.
_ATTEMPTS = 2
_LOOK_SECONDS = 0.5
_REMOVAL_SECONDS = 30.0  # that Serve may take for a removal beside the requests
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


class ImageReplica:
    """The class of the deployment; Serve makes one in each replica, and takes the application that it builds.

    Args:
        options: fields of `ServerSettings` as JSON, without the key.
        api_key_env: environment variable with the key that clients must send; None lets everybody in.

    Raises:
        ConfigError: the variable is not set where this replica runs.
    """

    def __init__(self, options: Mapping[str, Any], api_key_env: str | None) -> None:
        log_to_stderr(logging.INFO, "%(levelname)s %(name)s: %(message)s")
        key = None if api_key_env is None else read_key(api_key_env)
        if api_key_env is not None and not key:
            raise ConfigError(
                f"--api-key-env {api_key_env}: the variable is not set on the node {socket.gethostname()}: export it "
                "there before `ray start`"
            )
        self._settings = ServerSettings(**options, api_key=key and SecretStr(key))
        self._dispatcher: Dispatcher | None = None

    def __serve_build_asgi_app__(self) -> Front:
        """Return the application with the checks that stand before it in a server by itself."""
        from agentfly.serving.http_server import Front
        from agentfly.serving.image_server.http.app import count_refusal, create_app

        settings = self._settings
        app = create_app(settings)
        self._dispatcher = app.state.server.dispatcher
        hosts = AllowedHosts(settings.host, settings.connections.allowed_hosts)
        return Front(app, hosts, settings.connections, partial(count_refusal, self._dispatcher.metrics))

    async def check_health(self) -> None:
        """Wait for the engine: Serve calls this before it gives a new replica requests, and now and then later.

        Raises:
            ConfigError: the engine cannot be loaded.
        """
        assert self._dispatcher is not None
        await self._dispatcher.known.wait()
        if self._dispatcher.fatal_message:
            raise ConfigError(self._dispatcher.fatal_message)


def deployment_of(settings: ServerSettings, replicas: ReplicaSettings, api_key_env: str | None) -> Any:
    """Return the application for Serve, without any key in it.

    Args:
        settings: of each replica.
        replicas: their number and resources.
        api_key_env: environment variable with the key; None for none.

    Raises:
        MissingExtraError: Ray Serve is not installed.
    """
    serve = _import_serve()
    made = serve.deployment(
        name=DEPLOYMENT,
        ray_actor_options=replicas.actor_options(),
        graceful_shutdown_timeout_s=settings.shutdown_grace,
        max_constructor_retry_count=_ATTEMPTS,
        logging_config=_QUIET,
        **replicas.scaling(settings),
    )(serve.ingress()(ImageReplica))
    return made.bind(settings.model_dump(mode="json", exclude={"api_key"}), api_key_env)


def serve_on_ray(settings: ServerSettings, replicas: ReplicaSettings, api_key_env: str | None) -> None:
    """Deploy the replicas, and remove them at SIGTERM or SIGINT; what was started for them ends, too.

    Args:
        settings: of each replica, checked by `check_fits`.
        replicas: their number and resources.
        api_key_env: environment variable with the key; None for none.

    Raises:
        ConfigError: the engine cannot be loaded, Ray cannot be reached, or Serve has another address there.
        MissingExtraError: Ray Serve is not installed.
        AgentFlyError: the replicas did not start in time, or somebody else removed them.
    """
    application = deployment_of(settings, replicas, api_key_env)
    if settings.api_key is None and not is_loopback(settings.host):
        logger.warning("anybody who reaches %s may use these servers: set a key with --api-key-env", settings.host)
    try:
        with _ray(), _serve(settings):
            _deploy(application)
            _watch(settings, replicas)
    except KeyboardInterrupt:
        logger.info("the replicas are removed")


def _import_serve() -> Any:
    try:
        from ray import serve
    except ImportError as fault:
        raise MissingExtraError("agentfly serve-images --ray", "ray-serve") from fault
    return serve


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _ray() -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, or start one on this machine, which ends with the block."""
    import ray

    address = os.environ.get(_ADDRESS)
    ours: dict[str, Any] = {} if address else {"include_dashboard": False}
    if not address:
        for name, value in _LOCAL_RAY.items():
            os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        ray.init(address=address or "local", log_to_driver=True, logging_level=logging.WARNING, **ours)
    except Exception as fault:  # Ray raises what its parts raise
        if not address:
            raise ConfigError(f"Ray cannot be started here: {_last_line(fault)}") from fault
        raise ConfigError(
            f"the Ray cluster at {_ADDRESS}={address} cannot be joined: does its head answer there? Where it wants a "
            f"token (~/.ray/auth_token), `export RAY_AUTH_MODE=token` ({_last_line(fault)})"
        ) from fault
    signal.signal(signal.SIGTERM, _interrupt)  # Ray has put its own in place (ray/_private/worker.py:1679)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _serve(settings: ServerSettings) -> Iterator[None]:
    """Have Serve listen on the address of the settings; at the end remove the application, and Serve if it is ours."""
    from ray import serve

    running = bool(serve.status().proxies)
    if running:
        _check_address(settings)
    try:
        if not running:
            _start(settings)
        yield
    finally:
        try:
            _remove(settings.shutdown_grace)
            if not running:
                serve.shutdown()
        except Exception as fault:  # Ray raises what its parts raise, and the cluster may be gone
            logger.warning("the replicas could not be removed from the cluster: %s", _last_line(fault))


def _start(settings: ServerSettings) -> None:
    """Start Serve, which then listens on the head node of the cluster alone."""
    from ray import serve

    address = {"host": settings.host, "port": settings.port}
    try:
        serve.start(proxy_location="HeadOnly", http_options=address, logging_config=_QUIET)
    except Exception as fault:  # Serve raises its own exceptions, and those of its proxy
        where = f"{settings.host}:{settings.port}"
        raise ConfigError(
            f"Ray Serve cannot listen on {where}, give another --port or --host: {_last_line(fault)}"
        ) from fault


def _check_address(settings: ServerSettings) -> None:
    """Raise `ConfigError` unless the Serve of this cluster, which has one address, has that of the settings."""
    from ray.serve.context import _get_global_client  # Serve has no public way to ask (ray/serve/_private/api.py:60)

    client = _get_global_client()
    assert client is not None
    found = client.http_config
    if (found.host, found.port) != (settings.host, settings.port):
        raise ConfigError(
            f"Ray Serve runs on this cluster and listens on {found.host}:{found.port}, which all its applications "
            f"share: give --host {found.host} --port {found.port}, or end it with `serve shutdown`"
        )


def _deploy(application: Any) -> None:
    """Hand the application over to Serve, without waiting until it runs."""
    from ray import serve

    if APPLICATION in serve.status().applications:
        logger.warning("images are served on this cluster already: these replicas take their place")
    try:
        serve.run_many([serve.RunTarget(application, APPLICATION, "/")], wait_for_applications_running=False)
    except Exception as fault:  # Serve raises its own exceptions, and those of its controller
        raise ConfigError(f"Ray Serve does not take the application: {_last_line(fault)}") from fault


def _remove(grace: float) -> None:
    """Remove the application, and wait until its requests have ended; Serve itself waits for a minute at most."""
    from ray import serve

    if APPLICATION in serve.status().applications:
        serve.delete(APPLICATION, _blocking=False)
    deadline = time.monotonic() + grace + _REMOVAL_SECONDS
    while APPLICATION in serve.status().applications and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _watch(settings: ServerSettings, replicas: ReplicaSettings) -> None:
    """Report the number of replicas whenever it changes, until the process is interrupted.

    Raises:
        ConfigError: they cannot be started.
        AgentFlyError: they did not start in time, or are gone.
    """
    from ray import serve

    least, deadline, shown = replicas.replicas[0], time.monotonic() + replicas.start_timeout, -1
    while True:
        application = serve.status().applications.get(APPLICATION)
        if application is None:
            raise AgentFlyError("somebody else has removed the replicas from the cluster")
        deployment = application.deployments.get(DEPLOYMENT)
        if application.status == "DEPLOY_FAILED":
            raise ConfigError(_reason(deployment.message if deployment else application.message))
        running = 0 if deployment is None else deployment.replica_states.get("RUNNING", 0)
        if running != shown:
            shown = running
            logger.info("%d of %s replicas serve at %s:%d", running, _as_given(replicas), settings.host, settings.port)
        if running >= least:
            deadline = float("inf")
        elif time.monotonic() > deadline:
            raise AgentFlyError(_too_late(running, replicas))
        time.sleep(_LOOK_SECONDS)


def _too_late(running: int, replicas: ReplicaSettings) -> str:
    import ray

    found, wanted = ray.cluster_resources(), replicas.actor_options()
    has = f"{found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs"
    return (
        f"after {replicas.start_timeout:g} s {running} of {_as_given(replicas)} replicas serve. The cluster has {has}, "
        f"and a replica takes {wanted['num_cpus']:g} and {wanted['num_gpus']:g}: lower --cpus-per-replica, "
        "--gpus-per-replica or --replicas, or raise --start-timeout"
    )


def _as_given(replicas: ReplicaSettings) -> str:
    least, most = replicas.replicas
    return f"{least}" if least == most else f"{least} to {most}"


def _reason(message: str) -> str:
    """Return the error of ours in a message of Serve, which has tracebacks within tracebacks; its last line if none."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    ours = [line.partition(": ")[2] for line in lines if line.startswith("agentfly.errors.")]
    return ours[-1] if ours else (lines[-1] if lines else "the replicas cannot be started")


def _last_line(fault: BaseException) -> str:
    lines = str(fault).strip().splitlines()
    return lines[-1] if lines else type(fault).__name__
