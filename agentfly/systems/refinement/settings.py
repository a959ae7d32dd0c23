"""Settings of the refinement loop: the request, the generator, judge and prompter, and the limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from agentfly.openai_client import Endpoint
from agentfly.settings import Settings

GeneratorName = Literal["openai", "diffusers", "server", "classical"]
PrompterName = Literal["auto", "responses", "chat", "feedback"]
Quality = Literal["auto", "low", "medium", "high"]
Size = Literal["auto", "1024x1024", "1024x1536", "1536x1024"]
Background = Literal["auto", "opaque", "transparent"]
Format = Literal["png", "jpeg", "webp"]


class RefinementSettings(Settings):
    """Settings of a refinement loop.

    Attributes:
        generator: "openai" (Responses API with the image_generation tool), "diffusers" (a pipeline in this process),
            "server" (an image server), or "classical" (OpenCV; draws and edits by a small grammar).
        quality, size: of the images, for generators that have such a setting.
        background: None for a transparent one where the format has transparency.
        format: of the files.
        max_iterations: images at most.
        score_threshold: score (0 to 100) at which the loop ends.
        rubric: name of a rubric or path of a YAML file, for judge and prompter; None for none.
        model: of the Responses API, for the generator "openai"; also of judge and prompter unless they have their own.
        image_model: model of the image_generation tool; None leaves it to the server.
        base_url: OpenAI-compatible endpoint up to /v1 for all three; None for OpenAI's.
        api_key_env: environment variable with the key of these endpoints; a server of your own may need none.
        server_url: image server up to /v1, for the generator "server".
        server_fields: further fields of its requests, e.g. {"num_inference_steps": 30}.
        diffusers_model: folder or hub name, for the generator "diffusers".
        device: of that pipeline.
        steps: denoising steps; None for the model's default.
        strength: share of the last image that diffusers changes, from 0 to 1.
        seed: of the first image, counted up; None for random ones. For diffusers and image servers of ours.
        evaluator: argument of `make_evaluator`; None for a judge by `judge_model`.
        judge_model, judge_base_url: None for `model` and `base_url`.
        prompter: "responses" (Conversations API), "chat" (any chat endpoint), "feedback" (no model: appends the
            critique); "auto" is "responses" at OpenAI and where the generator is "openai", else "chat".
        prompter_model, prompter_base_url: None for `model` and `base_url`.
        timeout: seconds for a request.
        retries: further attempts of a request after a fault that may pass.
        input_price, output_price: of a million tokens, in any currency; None leaves the costs out.
    """

    written_as: ClassVar[str] = "--"

    generator: GeneratorName = "openai"
    quality: Quality = "high"
    size: Size = "1024x1024"
    background: Background | None = None
    format: Format = "png"
    max_iterations: int = Field(5, ge=1)
    score_threshold: float = Field(90.0, ge=0, le=100)
    rubric: str | None = None
    model: str = "gpt-5"
    image_model: str | None = None
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    server_url: str | None = None
    server_fields: Mapping[str, object] = Field(default_factory=dict)
    diffusers_model: str = "stabilityai/stable-diffusion-xl-base-1.0"
    device: str = "auto"
    steps: int | None = Field(None, ge=1)
    strength: float = Field(0.6, gt=0, le=1)
    seed: int | None = Field(None, ge=0)
    evaluator: str | Mapping[str, object] | None = None
    judge_model: str | None = None
    judge_base_url: str | None = None
    prompter: PrompterName = "auto"
    prompter_model: str | None = None
    prompter_base_url: str | None = None
    timeout: float = Field(300.0, gt=0)
    retries: int = Field(2, ge=0)
    input_price: float | None = Field(None, ge=0)
    output_price: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> RefinementSettings:
        if self.format == "jpeg" and self.background == "transparent":
            raise ValueError("JPEG has no transparency: use png or webp, or another background")
        if self.generator == "server" and not self.server_url:
            raise ValueError("the generator 'server' needs server_url (--server-url), the image server's address")
        return self

    @property
    def wanted_background(self) -> Background:
        """The background to ask for."""
        if self.background is not None:
            return self.background
        return "auto" if self.format == "jpeg" else "transparent"

    @property
    def pixels(self) -> tuple[int, int] | None:
        """Width and height; None for "auto"."""
        if self.size == "auto":
            return None
        width, _, height = self.size.partition("x")
        return int(width), int(height)

    def endpoint(self, base_url: str | None) -> Endpoint:
        """Return an endpoint with the key, time limit and retries of these settings.

        Raises:
            ConfigError: it needs a key and there is none; found before an image is made, which may take minutes.
        """
        found = Endpoint(base_url=base_url, api_key_env=self.api_key_env, timeout=self.timeout, retries=self.retries)
        found.key()
        return found
