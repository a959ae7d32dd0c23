"""One hierarchy of errors; every message says what went wrong and what to do about it.

`ToolError` is the only one that reaches the model: the rollout turns it into an observation, except for `ToolOutage`,
which ends the chain. Every other error is attributed once, at the boundary where it is caught (a chain, a request, a
command), and never ends a batch.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class AgentFlyError(Exception):
    """Base of all errors that agentfly raises on purpose."""


class ConfigError(AgentFlyError, ValueError):
    """An argument or a setting is wrong; the message names the valid choice."""


class ImageError(AgentFlyError, ValueError):
    """A picture cannot be loaded, or is refused for safety."""


class DatasetError(AgentFlyError, ValueError):
    """A data set, or a row of one, is not usable."""


class TemplateError(AgentFlyError, ValueError):
    """A chat template is unknown, or does not keep the contract that token-exact rollouts need."""


class ToolError(AgentFlyError):
    """A tool could not do what it was asked. The message is written for the model: it says what to try next."""


class EngineUnavailable(ToolError):
    """The engine behind a tool cannot do this at all, e.g. "needs a model backend: ..."."""


class ToolOutage(ToolError):
    """What does the work behind a tool is out of order: a pool of image servers that answers nobody, for example.

    No call would have fared better, so the chain ends as failed and is not scored.
    """


class BackendError(AgentFlyError):
    """An LLM backend failed to generate.

    Attributes:
        retryable: whether the same request may succeed later (rate limit, time-out, server fault).
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class EvaluatorError(AgentFlyError):
    """A sample could not be scored."""


class TrainingError(AgentFlyError):
    """Training could not start, stalled, or ended badly; the message names the cause and the log."""


class MissingExtraError(AgentFlyError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the optional packages of extra [{extra}]: pip install -e '.[{extra}]'")


def require(package: str, feature: str, extra: str) -> None:
    """Fail early, and by name, where an optional package is absent.

    Raises:
        MissingExtraError: `package` is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(feature, extra)


def first_line(fault: BaseException) -> str:
    """The first line of a fault's message, cut to a length that a person reads."""
    line = (str(fault).strip() or type(fault).__name__).splitlines()[0]
    return line if len(line) <= 200 else f"{line[:197]}..."


def printable(text: str) -> str:
    """Return a text that cannot steer a terminal, whatever a model or a server has put into it."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """A message for an unknown name that offers the nearest valid one, and lists the others."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}.{hint} Valid: {', '.join(names)}"
