"""The client backend's exceptions: messages, retries, and servers that have no native tool calls."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

from agentfly.agents.llm_backends.configs import ClientConfig
from agentfly.errors import BackendError
from agentfly.openai_client import read_fault
from agentfly.openai_compat import status_of, words_of
from agentfly.redaction import public_url

if TYPE_CHECKING:
    import openai

_LONGEST_WAIT = 120.0
_ADVICE = {
    401: "; check api_key, or set {variable}",
    403: "; check that api_key may use this model",
    404: "; check the model name, and that this address ends in /v1",
}
# vLLM without a parser, Ollama and OpenRouter with a model that has no tools, llama.cpp without --jinja.
_NO_TOOLS = re.compile(
    r"tool choice requires|tools param requires|"
    r"(?:no endpoints found that|not|n't) support(?: the)?:? ['\"`]?(?:tools?|functions?)\b|"
    r"\btools?['\"`]? (?:parameter )?(?:is|are) (?:not supported|unsupported)",
    re.IGNORECASE,
)


class TransientError(BackendError):
    """A fault that is worth another attempt; `wait` is the number of seconds that the server asked for."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message, retryable=True)
        self.wait = wait


class UnreachableError(TransientError):
    """No answer from the address: the network or the server is at fault, not the model."""


class Faults:
    """Turns the SDK's exceptions into `BackendError`s without the key in them, for one server.

    Args:
        config: of the server.
        variable: environment variable with its key, for messages.

    Attributes:
        url: address for messages, without passwords.
    """

    def __init__(self, config: ClientConfig, variable: str = "OPENAI_API_KEY") -> None:
        self._config, self._variable = config, variable
        self.url = public_url(config.base_url)

    def of(self, fault: Exception) -> BackendError:
        """Return the `BackendError` for an exception of the SDK; a `TransientError` where a retry may help."""
        url, seconds = self.url, self._config.timeout
        read = read_fault(fault, url, timeout=seconds, secret=self._config.api_key)
        if read.kind == "timeout":
            return UnreachableError(f"{url} did not answer within {seconds:g} s: raise the timeout of backend_config")
        if read.kind == "unreachable":
            return UnreachableError(f"cannot reach {url} ({read.reason}); check this address, and that the server runs")
        if read.kind == "no_json":
            return self.malformed()
        if read.status is None:
            return TransientError(f"{url} reported: {read.reason}")
        advice = _ADVICE.get(read.status, "").format(variable=self._variable)
        message = f"{url} answered {read.status}: {read.reason}{advice}"
        if not read.retryable:
            return BackendError(message)
        if read.retry_after is not None and read.retry_after > _LONGEST_WAIT:
            return BackendError(f"{message} (and asks to wait {read.retry_after:.0f} s)", retryable=True)
        return TransientError(message, read.retry_after)

    def malformed(self) -> BackendError:
        """Return the error for an answer that is no chat completion."""
        return BackendError(f"{self.url} sent no chat completion; check that this address ends in /v1")


def refuses_tools(fault: openai.APIError) -> bool:
    """Return True if a server says that it has no native tool calls."""
    status = getattr(fault, "status_code", None) or status_of(fault.body)
    said = "\n".join((str(fault), *words_of(fault.body)))
    return status in (400, 404, 422, 500, 501) and _NO_TOOLS.search(said) is not None


def backoff(attempt: int, fault: TransientError) -> float:
    """Return the seconds to wait after a failed attempt, with jitter.

    The base is what the server asked for, or else 0.5 seconds, doubled for each attempt up to 30.

    Args:
        attempt: its number, counted from 0.
        fault: its error.
    """
    if fault.wait is not None:
        # Chains that were refused together must not come back together.
        return fault.wait * random.uniform(1.0, 1.1)
    return min(30.0, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)
