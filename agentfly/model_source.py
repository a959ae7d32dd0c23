"""Check models by folder or hub name early, and report missing parts in one line.

transformers, diffusers and vLLM ask an unreachable hub again and again for minutes, and import for half a minute before
they read a folder. So these checks come before any of them.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from pathlib import Path

from agentfly.errors import ConfigError

QUICKSTART_POLICY = "runs/quickstart/policy"
# The small policy of the repository; an installation that is no clone is without it.
SHIPPED_POLICY = Path(__file__).parents[1] / "data" / "warm_start"
HUB_SECONDS = 4.0
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_YES = ("1", "true", "yes", "on")


def is_local(model: str) -> bool:
    """Return True if a model is named by path rather than by the id of a repository (OWNER/NAME)."""
    if "://" in model:
        return False
    return model.startswith((".", "/", "~")) or len(Path(model).parts) > 2 or Path(model).exists()


def check_folder(
    model: str, index: str = "config.json", wanted: str = "a model", *, option: str = "", weights: bool = False
) -> None:
    """Raise `ConfigError` for a local folder that is not a checkpoint; ids of repositories pass.

    Args:
        model: folder or id.
        index: the file that such a checkpoint has.
        wanted: description of the checkpoint, for messages.
        option: option or key that named the model, for messages, e.g. "--model" or "model=".
        weights: require weights, too.

    Raises:
        ConfigError: there is no such folder, or it lacks a file; the message names it.
    """
    if not is_local(model):
        return
    folder, given = Path(model).expanduser(), _as_given(model, option)
    if not folder.is_dir():
        raise ConfigError(f"{given}: there is no such folder: give a folder with {wanted}, or the id of one on the hub")
    if not (folder / index).is_file():
        raise ConfigError(f"{given} has no {index}: {_instead(folder, wanted)}")
    if weights and not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
        raise ConfigError(f"{given} has a {index}, but no weights (*.safetensors): {_instead(folder, wanted)}")


def find_model(
    model: str,
    index: str = "config.json",
    wanted: str = "a model",
    *,
    option: str = "",
    weights: bool = False,
    revision: str | None = None,
) -> str:
    """Return the source of a model: its folder, its hub name, or its cached copy where the hub is out of reach.

    Takes no longer than a few seconds, however the network fails.

    Args:
        model: folder or hub name; addresses (`hdfs://…`) pass.
        index: the file that such a checkpoint has.
        wanted: description of the model, for messages.
        option: option or key that named the model, for messages, e.g. "--model" or "model=".
        weights: require that a folder has weights, too.
        revision: branch, tag or commit on the hub.

    Raises:
        ConfigError: the folder is none, or lacks a file; or the model is not here and the hub cannot be reached.
    """
    check_folder(model, index, wanted, option=option, weights=weights)
    if is_local(model):
        return str(Path(model).expanduser())
    if "://" in model or importlib.util.find_spec("huggingface_hub") is None or hub_answers():
        return model
    cached = cached_copy(model, revision)
    if cached is None or not (cached / index).is_file():
        raise ConfigError(
            f"{_as_given(model, option)} is not on this machine and the hub cannot be reached: download it where "
            f"there is a network (hf download {model} --local-dir FOLDER) and give that FOLDER instead"
        )
    return str(cached)


def require_policy(model: str | None) -> str:
    """Return the policy to run in this process, by default that of the quickstart; check that it can be loaded.

    Call this before anything is imported for the policy.

    Raises:
        ConfigError: it is not there; the message names ways to get one.
    """
    model = model or QUICKSTART_POLICY
    if model.startswith("runs/") and not Path(model).is_dir():
        raise ConfigError(
            f"there is no policy at {model}: run `make quickstart` first, name a policy with --model, or a model "
            "behind an OpenAI-compatible endpoint with --base-url URL --model NAME"
        )
    find_model(model, wanted="a policy", option="--model", weights=True)
    return model


def hub_is_off() -> bool:
    """Return True if the environment forbids requests to the model hub."""
    return os.environ.get("HF_HUB_OFFLINE", "0").strip().lower() in _YES


def hub_answers() -> bool:
    """Return True if the model hub may be asked and answers. Takes little longer than `HUB_SECONDS`."""
    if hub_is_off():
        return False
    import httpx

    answered = threading.Event()

    def ask() -> None:
        try:
            httpx.head(os.environ.get("HF_ENDPOINT") or "https://huggingface.co", timeout=HUB_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            return
        answered.set()

    # The look-up of a name has no timeout of its own: an unreachable resolver takes half a minute.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS + 1.0)
    return answered.is_set()


def cached_copy(model: str, revision: str | None = None) -> Path | None:
    """Return the folder of a model of the hub in its cache on this machine; None where there is none.

    Args:
        model: hub name; paths and addresses are none.
        revision: branch, tag or commit.
    """
    if is_local(model) or "://" in model or importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (OSError, HFValidationError):
        return None


def _as_given(model: str, option: str) -> str:
    """Return a model as the person wrote it: `--model NAME`, `agentfly.model=NAME`."""
    return f"{option}{model}" if option.endswith("=") else f"{option} {model}".strip()


def _instead(folder: Path, wanted: str) -> str:
    """Return the advice for a folder that is no checkpoint, by its content."""
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter; merge it with its model by `agentfly export RUN --out FOLDER`, and give that folder"
    if (folder / "actor").is_dir() or next(folder.glob("global_step_*"), None) is not None:
        return "it is a checkpoint of a training; make a model of it by `agentfly export RUN --out FOLDER`"
    found = next((path.parent for path in sorted(folder.glob("*/config.json"))), None)
    if found is not None:
        return f"did you mean {str(found)!r}?"
    return f"give a folder with {wanted}, as save_pretrained or `hf download NAME --local-dir FOLDER` writes it"
