"""The options of `agentfly serve-images --ray`, and what they make of the settings of a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from agentfly.errors import ConfigError
from agentfly.serving.image_server.settings import ServerSettings
from agentfly.settings import Settings


def _read_range(given: object) -> object:
    """Return (least, most) of `MIN:MAX`, or of one number for both."""
    if not isinstance(given, str):
        return given
    least, _, most = given.partition(":")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise ValueError("give a number, or MIN:MAX for as many as the requests need, such as 1:8") from None


class ReplicaSettings(Settings):
    """The replicas of a server.

    Attributes:
        replicas: least and most replicas. Where they differ, Ray Serve starts and stops replicas by the number of
            requests that run and wait.
        gpus_per_replica: GPUs that Ray reserves for each, whole ones or a part of one; 0 for a model on the CPU.
        cpus_per_replica: the same for CPUs.
        target_requests: requests that run or wait in each replica to which the number of replicas is adjusted; None for
            as many as a replica holds at once.
        start_timeout: seconds until the least number of replicas has to serve.
    """

    written_as: ClassVar[str] = "--"

    replicas: Annotated[tuple[int, int], BeforeValidator(_read_range)] = (1, 1)
    gpus_per_replica: float = Field(0.0, ge=0, allow_inf_nan=False)
    cpus_per_replica: float = Field(1.0, ge=0, allow_inf_nan=False)
    target_requests: float | None = Field(None, gt=0, allow_inf_nan=False)
    start_timeout: float = Field(1800.0, gt=0, allow_inf_nan=False)

    @field_validator("replicas")
    @classmethod
    def _is_a_range(cls, replicas: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= replicas[0] <= replicas[1]:
            raise ValueError("MIN is 1 or more, and MAX no less than MIN")
        return replicas

    @field_validator("gpus_per_replica")
    @classmethod
    def _are_whole_beyond_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("Ray gives a part of one GPU, such as 0.5, or whole ones")
        return gpus

    def actor_options(self) -> dict[str, float]:
        """Return what Ray reserves for a replica."""
        return {"num_cpus": self.cpus_per_replica, "num_gpus": self.gpus_per_replica}

    def scaling(self, settings: ServerSettings) -> dict[str, Any]:
        """Return the options of a Serve deployment about its replicas.

        A replica admits and refuses requests as a server by itself does. So Serve may give it all that such a server
        admits, and the status pages beside: they would otherwise wait behind the work, and a pool take the server for
        dead.

        Args:
            settings: of each replica.
        """
        least, most = self.replicas
        options: dict[str, Any] = {"max_ongoing_requests": settings.admitted + _STATUS_REQUESTS}
        if least == most:
            return {**options, "num_replicas": least}
        target = self.target_requests or float(settings.slots)
        scaled = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": target}
        return {**options, "autoscaling_config": scaled}


_STATUS_REQUESTS = 64


def read_replicas(ray: bool, options: Mapping[str, object]) -> ReplicaSettings | None:
    """Return the settings of the replicas; None without `--ray`.

    Args:
        ray: True if `--ray` is given.
        options: fields of `ReplicaSettings`; None where an option is not given.

    Raises:
        ConfigError: an option is wrong, or is given without `--ray`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if ray:
        return ReplicaSettings(**given)
    for name in given:
        raise ConfigError(f"--{name.replace('_', '-')} is about the replicas of Ray Serve: add --ray, or leave it out")
    return None


def check_fits(settings: ServerSettings, replicas: ReplicaSettings) -> None:
    """Check the settings of a server whose copies Ray Serve runs.

    Raises:
        ConfigError: one of them has no meaning there; the message says what does the same.
    """
    if settings.gpu_ids:
        raise ConfigError("--gpu-ids: Ray chooses the GPUs of its replicas: give --gpus-per-replica in place of it")
    if settings.workers != 1:
        raise ConfigError("--workers: each replica has one: give --replicas in place of it")
    if settings.device.startswith("cuda") and not replicas.gpus_per_replica:
        raise ConfigError("--device cuda: Ray reserves no GPU for a replica without --gpus-per-replica")
    if settings.max_requests_per_minute is not None:
        raise ConfigError(
            "--max-requests-per-minute: each replica would count by itself: leave it out, and limit the clients "
            "(max_requests_per_minute of an agent or a run) or the proxy in front"
        )
    if not settings.port:
        raise ConfigError("--port 0: Ray Serve takes no free port by itself: give a number")
