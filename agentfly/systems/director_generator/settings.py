"""The settings of a studio of directors and generators: one YAML file, two lists of personas, four prompts.

Environment variables override the file. Keys are only in the environment: no file and no result ever has one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from agentfly.errors import ConfigError, unknown_name
from agentfly.files import read_mapping, read_text
from agentfly.redaction import read_key
from agentfly.settings import Settings
from agentfly.systems.director_generator.prompts import Prompts, load_prompts

_SIZE = re.compile(r"([1-9]\d{1,4})x([1-9]\d{1,4})")
# Environment variables that override the file, with the section and the field of each.
_VARIABLES = {
    "VLLM_API_BASE": ("vllm", "api_base"),
    "OPENAI_BASE_URL": ("openai", "api_base"),
    "SDXL_API_BASE": ("sdxl", "api_base"),
    "SDXL_FAILOVER_MODE": ("sdxl", "failover_mode"),
}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,39}$"


class ModelSettings(Settings):
    """One chat model; roles and personas name it by its alias.

    Attributes:
        model: id on the server; must match letter by letter.
        provider: "vllm" or "openai" (see the sections of those names), or LiteLLM's name of a vendor.
        temperature, max_tokens: of a reply.
        sees_images: images may be sent to it; a director's model must see them.
        extra_body: further fields of every request.
    """

    renamed: ClassVar[Mapping[str, str]] = {"sees_pictures": "sees_images"}

    model: str = Field(min_length=1)
    provider: str = Field("vllm", pattern=r"^[a-z][a-z0-9_]*$")
    temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(1024, ge=16)
    sees_images: bool = True
    extra_body: Mapping[str, object] = Field(default_factory=dict)


class EndpointSettings(Settings):
    """An OpenAI-compatible chat endpoint: its address up to and including /v1."""

    api_base: str = Field(pattern=r"^https?://.")


class Roles(Settings):
    """Aliases of the models of directors and generators whose persona names none."""

    director: str
    generator: str


class SdxlSettings(Settings):
    """The engine that makes images of prompts, and its settings.

    Attributes:
        mode: "mock" (placeholders that say so), "api" (an image server at `api_base`, else Stability), or "local"
            (`model` on `device`, in this process).
        failover_mode: "mock" puts a placeholder, counted and marked, where an image could not be made; "none" records
            the failure.
        api_base: an image server of ours, or another with `/v1/images/generations`.
        model, device, dtype: of "local".
        size: WIDTHxHEIGHT in pixels.
        steps, guidance_scale: of the denoiser; None leaves them to the server.
        seed: of the first image; every further one adds 1. None draws one, which the result records.
        timeout: seconds for an image.
        retries: further attempts on faults that may pass.
        stability_base, stability_engine: Stability's REST API v1.
    """

    mode: Literal["mock", "api", "local"] = "mock"
    failover_mode: Literal["none", "mock"] = "none"
    api_base: str | None = Field(None, pattern=r"^https?://.")
    model: str = "stabilityai/stable-diffusion-xl-base-1.0"
    device: str = "cuda:0"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    size: str = "1024x1024"
    steps: int | None = Field(30, ge=1)
    guidance_scale: float | None = Field(7.0, ge=0)
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    timeout: float = Field(600.0, gt=0)
    retries: int = Field(2, ge=0)
    stability_base: str = Field("https://api.stability.ai", pattern=r"^https?://.")
    stability_engine: str = "stable-diffusion-xl-1024-v1-0"

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, size: str) -> str:
        if _SIZE.fullmatch(size) is None:
            raise ValueError("size is WIDTHxHEIGHT, such as 1024x1024")
        return size

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height."""
        width, _, height = self.size.partition("x")
        return int(width), int(height)


class Persona(Settings):
    """A director or a generator.

    Attributes:
        name: unique in its list.
        persona: character and interests, in the second person.
        model: alias of its model; None takes its role's.
        temperature: in place of the model's own.
    """

    name: str = Field(pattern=_NAME)
    persona: str = Field(min_length=1)
    model: str | None = None
    temperature: float | None = Field(None, ge=0)


class SystemSettings(Settings):
    """The YAML file. Paths in it are relative to its folder.

    Attributes:
        models, roles: chat models by alias, and the alias of each role.
        vllm, openai: endpoints of those providers.
        chat: "litellm", "client" (our own, OpenAI-compatible endpoints only), or "auto": LiteLLM where it is installed.
        stream: ask for streamed replies, which keeps proxies from giving up on a slow one.
        timeout: seconds for a reply, or between two pieces of a streamed one.
        retries: further attempts after a rate limit, a server fault, a time-out or a lost connection.
        reply_attempts: questions to an agent, at most, until its reply can be used.
        max_concurrent_calls: chat calls at once.
        sdxl: the engine that makes the images.
        evaluator: argument of `make_evaluator`, which judges every image beside the directors; None for none.
        evaluation_threshold: score (0 to 100) from which an image is good enough.
        max_loops: rounds of images at most.
        recursion_limit: phases at most, over all rounds.
        directors, generators: files with lists of personas.
        prompts: folder of the prompts.
    """

    models: Mapping[str, ModelSettings]
    roles: Roles
    vllm: EndpointSettings = EndpointSettings(api_base="http://127.0.0.1:8000/v1")
    openai: EndpointSettings = EndpointSettings(api_base="https://api.openai.com/v1")
    chat: Literal["auto", "litellm", "client"] = "auto"
    stream: bool = False
    timeout: float = Field(120.0, gt=0)
    retries: int = Field(4, ge=0)
    reply_attempts: int = Field(3, ge=1)
    max_concurrent_calls: int = Field(8, ge=1)
    sdxl: SdxlSettings = SdxlSettings()
    evaluator: str | Mapping[str, object] | None = None
    evaluation_threshold: float = Field(85.0, ge=0, le=100)
    max_loops: int = Field(10, ge=1)
    recursion_limit: int = Field(1000, ge=1)
    directors: str = "directors.json"
    generators: str = "generators.json"
    prompts: str = "../prompts"

    @model_validator(mode="after")
    def _roles_have_models(self) -> SystemSettings:
        for alias in (self.roles.director, self.roles.generator):
            self.model_of(alias)
        return self

    def model_of(self, alias: str) -> ModelSettings:
        """Return a model by its alias.

        Raises:
            ConfigError: no model has that alias.
        """
        if alias not in self.models:
            raise ConfigError(unknown_name("model alias", alias, self.models))
        return self.models[alias]


@dataclass(frozen=True)
class Keys:
    """Keys of the environment; `vendors` has every variable that ends in _API_KEY, for LiteLLM's vendors."""

    openai: SecretStr | None = None
    stability: SecretStr | None = None
    sdxl: SecretStr | None = None
    vendors: Mapping[str, SecretStr] | None = None


@dataclass(frozen=True)
class Studio:
    """The configuration of a run: settings, personas, prompts and keys."""

    settings: SystemSettings
    directors: tuple[Persona, ...]
    generators: tuple[Persona, ...]
    prompts: Prompts
    keys: Keys


def load_studio(path: Path, env: Mapping[str, str] | None = None, **changes: object) -> Studio:
    """Load a configuration, and apply the overrides of the environment and of the caller.

    Args:
        path: the YAML file.
        env: variables; those of the process by default. VLLM_API_BASE, OPENAI_BASE_URL, SDXL_API_BASE and
            SDXL_FAILOVER_MODE override the file; OPENAI_API_KEY, STABILITY_API_KEY and SDXL_API_KEY are keys.
        changes: fields of `SystemSettings` in place of the file's; None leaves a field as it is.

    Raises:
        ConfigError: a file is missing or wrong; the message names it and the fault.
    """
    env = os.environ if env is None else env
    data = _overridden(read_mapping(path, "configuration", "max_loops: 3"), env, changes)
    try:
        settings = SystemSettings(**data)
    except ConfigError as fault:
        given = [name for name in _VARIABLES if env.get(name)]
        place = f"{path} (with {', '.join(given)} from the environment)" if given else str(path)
        raise ConfigError(f"{place}: {fault}") from None
    directors = _personas(path.parent / settings.directors)
    generators = _personas(path.parent / settings.generators)
    for director in directors:
        alias = director.model or settings.roles.director
        if not settings.model_of(alias).sees_images:
            raise ConfigError(f"director {director.name!r} judges images, but model {alias!r} has sees_images: false")
    for generator in generators:
        settings.model_of(generator.model or settings.roles.generator)
    found = {name: read_key(name, env) for name in env if name.endswith("_API_KEY")}
    keys = {name: SecretStr(key) for name, key in found.items() if key}
    known = Keys(keys.get("OPENAI_API_KEY"), keys.get("STABILITY_API_KEY"), keys.get("SDXL_API_KEY"), keys)
    return Studio(settings, directors, generators, load_prompts(path.parent / settings.prompts), known)


def slug(text: str) -> str:
    """Return a text in the form of a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _overridden(data: dict[str, Any], env: Mapping[str, str], changes: Mapping[str, object]) -> dict[str, Any]:
    for name, (section, setting) in _VARIABLES.items():
        if env.get(name):
            data[section] = {**(data.get(section) or {}), setting: env[name]}
    if env.get("SDXL_API_BASE"):
        data["sdxl"]["mode"] = "api"
    return {**data, **{name: value for name, value in changes.items() if value is not None}}


def _personas(path: Path) -> tuple[Persona, ...]:
    try:
        data = json.loads(read_text(path))
    except (OSError, ValueError) as fault:
        raise ConfigError(f"cannot read the personas {path}: {fault}") from None
    if not isinstance(data, Sequence) or isinstance(data, str) or not data:
        raise ConfigError(f'{path} is a list of personas, such as [{{"name": "Ada", "persona": "You are ..."}}]')
    if not all(isinstance(item, Mapping) for item in data):
        raise ConfigError(f"{path}: every persona is an object with name and persona")
    try:
        personas = tuple(Persona(**item) for item in data)
    except ConfigError as fault:
        raise ConfigError(f"{path}: {fault}") from None
    # Names become file names.
    names = [slug(persona.name) for persona in personas]
    twice = next((persona.name for persona in personas if names.count(slug(persona.name)) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two personas are called {twice!r}: give each a name of its own")
    return personas
