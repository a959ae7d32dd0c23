"""The settings of an operator. All are checked at the start of the server, not at its first request."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, SecretStr, model_validator

from agentfly.serving.settings import ConnectionLimits
from agentfly.settings import Settings
from agentfly.vision.diffusion.settings import Offload
from agentfly.vision.model_runtime import DType

ModelType = Literal["qwen", "generic", "inpaint", "detect", "sdxl", "classical", "custom"]

# Diffusion engines put requests with equal settings into one batch, so they are given several at a time. The others
# get one more than they work on, so that they need not wait for the next.
_SLOTS: dict[ModelType, int] = {"qwen": 4, "generic": 4, "inpaint": 4, "sdxl": 4, "detect": 2, "classical": 2}

# Options that a model type has no use for: they are refused, not ignored.
_UNUSED: dict[ModelType, tuple[str, ...]] = {
    "detect": ("dtype", "offload", "compile", "area", "lora"),
    "classical": ("dtype", "offload", "compile", "area", "lora"),
    "sdxl": ("area",),
}

# Requests whose bodies may be read at once beyond those that the queue and the workers take.
_READING = 16


class UploadLimits(Settings):
    """Limits of a request, checked before anything is decoded.

    Attributes:
        body_bytes: bytes of a request body.
        images: images in a request, the mask not counted.
        pixels: width x height of one image, from its header.
        total_pixels: pixels of all images of a request together.
        memory_bytes: bytes of the bodies and decoded images of all requests together.
        prompt_characters: characters of a prompt.
        outputs: results of one request (`n`).
        output_side: longest side of a result, in pixels.
        steps: denoising steps.
        allow_urls: fetch images from http(s) addresses; never from addresses that are not public.
        url_seconds: seconds for such a download, redirects included.
    """

    written_as: ClassVar[str] = "--"

    body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    images: int = Field(8, ge=1)
    pixels: int = Field(16_000_000, ge=1)
    total_pixels: int = Field(32_000_000, ge=1)
    memory_bytes: int = Field(1024 * 1024 * 1024, ge=1)
    prompt_characters: int = Field(8_000, ge=1)
    outputs: int = Field(8, ge=1)
    output_side: int = Field(2048, ge=8)
    steps: int = Field(200, ge=1)
    allow_urls: bool = False
    url_seconds: float = Field(20.0, gt=0)


class ModelOptions(Settings):
    """The model of a server, and its form in memory.

    Attributes:
        model_type: kind of engine.
        model_path: folder or hub name; for `custom`, `package.module:function`.
        masks: a SAM model that outlines the objects that `detect` finds; None makes each mask a box.
        use_fast: edit in 8 steps, with a distilled LoRA.
        use_ultra_fast: edit in 4 steps, likewise.
        lora: folder or file of that LoRA; None takes it from the hub.
        dtype, offload, compile, area: see `agentfly.vision.diffusion.WeightSettings`; `area` is for models that start
            from an image.
    """

    model_config = ConfigDict(protected_namespaces=())
    written_as: ClassVar[str] = "--"

    model_type: ModelType
    model_path: str = ""
    masks: str | None = None
    use_fast: bool = False
    use_ultra_fast: bool = False
    lora: str | None = None
    dtype: DType = "auto"
    offload: Offload = "none"
    compile: bool = False
    area: int | None = Field(None, ge=32 * 32)


class EngineOptions(ModelOptions):
    """The engine that a worker loads. Travels to the worker process as JSON.

    Attributes:
        device: torch device of this worker.
        device_flag: the option of the command that chose it, for messages.
        max_batch: most requests that a diffusion engine puts into one batch.
    """

    device: str = "cpu"
    device_flag: str = "--device cpu"
    max_batch: int = 4


class ServerSettings(ModelOptions):
    """Settings of one server.

    Attributes:
        gpu_ids: one worker for each of these GPUs, counted within CUDA_VISIBLE_DEVICES where that is set.
        device: device of the workers when there are no `gpu_ids`.
        workers: number of workers when there are no `gpu_ids`.
        worker_slots: requests that a worker holds at once; 0 lets the model type choose.
        replicas: servers like this one behind the same address, itself included, at most; above 1 with Ray Serve alone.
        host, port: address to listen on. Hosts other than loopback should have an API key.
        api_key: that clients must send as `Authorization: Bearer ...`; None lets everybody in.
        max_queue: most requests that wait for a worker.
        max_requests_per_minute: most requests of one client, known by its address, in any 60 seconds; None for no
            limit.
        request_timeout: most seconds that a request may take; also the default.
        cancel_grace: seconds that a worker has to stop an abandoned request before it is restarted.
        shutdown_grace: seconds that requests have to finish after SIGTERM.
        limits: of the contents of a request.
        connections: limits of the connections, whatever is sent over them.
    """

    gpu_ids: tuple[int, ...] = ()
    device: str = "cpu"
    workers: int = Field(1, ge=1, le=64)
    worker_slots: int = Field(0, ge=0, le=64)
    replicas: int = Field(1, ge=1)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    max_queue: int = Field(64, ge=1)
    max_requests_per_minute: int | None = Field(None, ge=1)
    request_timeout: float = Field(600.0, gt=0)
    cancel_grace: float = Field(5.0, gt=0)
    shutdown_grace: float = Field(30.0, gt=0, allow_inf_nan=False)
    limits: UploadLimits = UploadLimits()
    connections: ConnectionLimits = ConnectionLimits()

    @model_validator(mode="after")
    def _fits_together(self) -> ServerSettings:
        if self.model_type != "classical" and not self.model_path:
            raise ValueError(f"--model-type {self.model_type} needs --model-path")
        if (self.use_fast or self.use_ultra_fast) and self.model_type != "qwen":
            raise ValueError("--use-fast and --use-ultra-fast are for --model-type qwen: leave them out")
        if self.lora is not None and not (self.use_fast or self.use_ultra_fast or self.model_type == "custom"):
            raise ValueError("--lora is that of --use-fast and --use-ultra-fast: give one of them, too")
        if self.masks is not None and self.model_type not in ("detect", "custom"):
            raise ValueError(f"--masks is for --model-type detect: leave it out with {self.model_type}")
        for name in _UNUSED.get(self.model_type, ()):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"--{name} is of no use to --model-type {self.model_type}: leave it out")
        if any(gpu < 0 for gpu in self.gpu_ids) or len(set(self.gpu_ids)) < len(self.gpu_ids):
            raise ValueError("--gpu-ids are different numbers from 0 on")
        return self

    @property
    def slots(self) -> int:
        """Number of requests that one worker holds at once."""
        return self.worker_slots or _SLOTS.get(self.model_type, 1)

    @property
    def capacity(self) -> int:
        """Number of requests that all workers hold at once."""
        return self.slots * (len(self.gpu_ids) or self.workers)

    @property
    def admitted(self) -> int:
        """Number of requests of work that are read, wait or run at once; further ones are answered 503."""
        return self.max_queue + self.capacity + _READING

    def engine_options(self) -> EngineOptions:
        """Return the options of each worker's engine. With `gpu_ids` a worker sees one GPU, its own."""
        model = {name: getattr(self, name) for name in ModelOptions.model_fields}
        device, flag = self.device, f"--device {self.device}"
        if self.gpu_ids:
            device, flag = "cuda:0", f"--gpu-ids {' '.join(map(str, self.gpu_ids))}"
        return EngineOptions(**model, device=device, device_flag=flag, max_batch=self.slots)
