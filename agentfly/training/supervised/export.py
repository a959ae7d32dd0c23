"""`agentfly export`: write a folder that others can use, from any training run.

The folder has the weights in the format of transformers and vLLM, the processor, the `agentfly.json` with which
`agentfly edit` runs the policy as it was trained, and a README with its origin.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentfly.agents.policy_config import FILE_NAME, PolicyConfig
from agentfly.errors import ConfigError, MissingExtraError, TrainingError
from agentfly.files import check_replaceable, read_yaml
from agentfly.provenance import installed_versions
from agentfly.templates import load_template
from agentfly.training.launch.checkpoints import export_policy, newest_checkpoint, save_processor, step_of
from agentfly.training.recipe.settings import TEMPLATE, TrainSettings
from agentfly.training.supervised.lora import (
    ADAPTER_CONFIG,
    Scaling,
    has_factors,
    merge_factors,
    merged_model,
    write_adapter,
)
from agentfly.training.supervised.model_card import CardFacts, model_card, read_scores
from agentfly.training.supervised.state import RECORD, RunRecord
from agentfly.training.supervised.trainer import ADAPTER, POLICY

_CONFIG, _SUMMARY = "config.yaml", "summary.json"
_LORA_META = "lora_train_meta.json"
_SHARD = "5GB"
# Of verl's hundreds of settings, those that a README lists.
_LISTED = (
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
    "actor_rollout_ref.actor.entropy_coeff",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.model.lora_rank",
    "algorithm.gamma",
    "algorithm.lam",
    "critic.optim.lr",
)


@dataclass(frozen=True)
class ExportRequest:
    """Source and options of an export.

    Attributes:
        source: a run of `agentfly sft`, of `agentfly train` or of the quickstart; a folder of verl's checkpoints, or
            one of them.
        out: the new folder; an earlier export there is replaced.
        adapter: keep adapters apart instead of merging them.
        card: folder or file with the agent card; the run's own when None.
        scores: summary of an evaluation for the README; the run's own, if any, when None.
        base_model: name of the model that was trained, for the README and adapters; the run's own when None.
    """

    source: Path
    out: Path
    adapter: bool = False
    card: Path | None = None
    scores: Path | None = None
    base_model: str | None = None


def export(request: ExportRequest) -> Path:
    """Export a policy and return its folder.

    Raises:
        ConfigError: the source is no run, something that is asked for is missing, or `out` holds something else.
        TrainingError: a checkpoint is incomplete.
    """
    try:
        import torch  # noqa: F401
    except ImportError as fault:
        raise MissingExtraError("agentfly export", "verl") from fault
    out, source = request.out.resolve(), request.source.resolve()
    check_replaceable(request.out, FILE_NAME, "policy folder")
    if out == source or out in source.parents:
        raise ConfigError(f"--out {request.out} would replace the run itself: give another folder")
    scores = read_scores(request.scores) if request.scores is not None else []
    record = request.source / RECORD
    partial = request.out.with_name(request.out.name + ".export")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if record.is_file():
        facts = _supervised(request, json.loads(record.read_text(encoding="utf-8")), partial)
    else:
        facts = _reinforced(request, partial)
    facts = replace(facts, scores=scores or facts.scores, name=request.out.name)
    facts.agent.write(partial)
    (partial / "README.md").write_text(model_card(facts), encoding="utf-8")
    shutil.rmtree(request.out, ignore_errors=True)
    return partial.rename(request.out)


def _supervised(request: ExportRequest, record: RunRecord, out: Path) -> CardFacts:
    """Copy the policy, or merge the adapter, of a run of `agentfly sft`."""
    config, source = record["config"], request.source.absolute()
    base = request.base_model or config["model"]
    trained = source / (ADAPTER if config["lora"]["rank"] else POLICY)
    if not trained.is_dir():
        raise TrainingError(f"{source} has no {trained.name}/ yet: let the run end, with `agentfly sft … --resume`")
    kept = request.adapter and trained.name == ADAPTER
    if request.adapter and not kept:
        raise ConfigError(f"{source} trained all weights: there is no adapter to keep; leave --adapter out")
    shutil.copytree(trained, out)
    if kept:
        path = out / ADAPTER_CONFIG
        adapter = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
        path.write_text(json.dumps(adapter, indent=2) + "\n", encoding="utf-8")
    elif trained.name == ADAPTER:
        for path in out.glob("adapter_*"):
            path.unlink()
        merged_model(base, trained).save_pretrained(out)
    result = {name.replace("_", " "): f"{value:.4f}" for name, value in record.get("result", {}).items()}
    data = {name.replace("_", " "): value for name, value in record["data"].items() if name != "counts"}
    settings = {**config["training"], "steps": record["steps"]}
    if config["lora"]["rank"]:
        settings |= {f"lora {name}": value for name, value in config["lora"].items()}
    return CardFacts(
        name=out.name,
        base_model=base,
        method="supervised fine-tuning",
        data=data | record["data"]["counts"],
        settings={name: value for name, value in settings.items() if value is not None},
        result=result,
        versions=record.get("versions", installed_versions()),
        agent=_card(request, trained),
        adapter=kept,
    )


def _reinforced(request: ExportRequest, out: Path) -> CardFacts:
    """Copy the policy of one of verl's checkpoints."""
    checkpoint = _find_checkpoint(request.source)
    # Folders of the run that has the checkpoint; a quickstart has its training in a folder of its own.
    around = [request.source, *checkpoint.resolve().parents[:3]]
    config = _run_config(around)
    node: Mapping[str, Any] = config.get("agentfly") or {}
    base = request.base_model or str(node.get("model", ""))
    export_policy(checkpoint, out)
    if node.get("template"):
        from transformers import AutoProcessor

        # verl saves the processor as it was loaded, without the template of the run.
        own = next((folder / TEMPLATE for folder in around if (folder / TEMPLATE).is_file()), None)
        template = own.read_text(encoding="utf-8") if own else load_template(str(node["template"]))
        save_processor(AutoProcessor.from_pretrained(out), template, out)
    kept = _settle_adapters(checkpoint, out, base, keep=request.adapter)
    scores = next((folder / _SUMMARY for folder in around if (folder / _SUMMARY).is_file()), None)
    settings = {name: value for name in _LISTED if (value := _at(config, name)) is not None}
    if node and request.card is None:
        card = TrainSettings(**node).card()
    else:
        card = _card(request, *(folder / name for folder in around for name in ("", "policy", "warm_start")))
    return CardFacts(
        name=out.name,
        base_model=base,
        method=str(_at(config, "algorithm.adv_estimator") or "reinforcement learning"),
        data={f"data {name}": value for name, value in (node.get("data") or {}).items() if value is not None},
        settings={"steps": step_of(checkpoint), **settings},
        scores=read_scores(scores) if scores is not None else (),
        versions=installed_versions(),
        agent=card,
        adapter=kept,
    )


def _find_checkpoint(source: Path) -> Path:
    """Return the newest checkpoint of a run, or the folder itself if it is a checkpoint."""
    for folder in (source, source / "checkpoints", source / "training" / "checkpoints"):
        found = newest_checkpoint(folder) or (folder if (folder / "actor").is_dir() else None)
        if found is not None:
            return found
    raise ConfigError(f"{source} is no run: there is no {RECORD}, and no checkpoint of verl (global_step_<n>)")


def _run_config(around: Sequence[Path]) -> dict[str, Any]:
    """Return the configuration that `agentfly train` wrote; empty when there is none."""
    for path in (folder / _CONFIG for folder in around):
        content = read_yaml(path, "configuration of the run") if path.is_file() else None
        if isinstance(content, dict) and "agentfly" in content:
            return content
    return {}


def _settle_adapters(checkpoint: Path, out: Path, base: str, *, keep: bool) -> bool:
    """Merge the adapters of a checkpoint, or write them alone; return True if adapters were written."""
    from safetensors.torch import load_file

    shards = sorted(out.glob("*.safetensors"))
    if not has_factors(shards):
        if keep:
            raise ConfigError(f"{checkpoint} trained all weights: there is no adapter to keep; leave --adapter out")
        return False
    meta = checkpoint / "actor" / _LORA_META
    if not meta.is_file():
        raise TrainingError(f"{checkpoint} has adapters, but no {meta.name} with their rank and alpha")
    scaling: Scaling = json.loads(meta.read_text(encoding="utf-8"))
    weights = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    for path in (*shards, *out.glob("*.safetensors.index.json")):
        path.unlink()
    if keep:
        if not base:
            raise ConfigError("adapters belong to a model: name it with --base-model")
        (out / "config.json").unlink()
        write_adapter(weights, scaling, base, out)
    else:
        from huggingface_hub import save_torch_state_dict

        merged = merge_factors(weights, scaling["lora_alpha"] / scaling["r"])
        save_torch_state_dict(merged, out, max_shard_size=_SHARD)
    return keep


def _card(request: ExportRequest, *places: Path) -> PolicyConfig:
    """Return the agent card that was asked for, or else the first in one of the folders."""
    if request.card is not None:
        folder = request.card.parent if request.card.is_file() else request.card
        if not (folder / FILE_NAME).is_file():
            raise ConfigError(f"--card {request.card}: there is no {FILE_NAME}")
        return PolicyConfig.read(str(folder))
    return next((PolicyConfig.read(str(place)) for place in places if (place / FILE_NAME).is_file()), PolicyConfig())


def _at(config: Mapping[str, object], dotted: str) -> object:
    """Return the value of a dotted key; None where it is missing."""
    node: object = config
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
