"""An evaluator on another server, for scorers whose packages conflict with this environment.

`python -m agentfly.serving.evaluator_server` is such a server; any other with the same `POST /v1/evaluate` will do.
"""

from __future__ import annotations

import asyncio
import json

import httpx
from pydantic import Field, ValidationError

from agentfly.aio import LoopLocal, TimeLimitExceeded, with_waiting_limit
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators.base import READY_SECONDS, EditSample, Score
from agentfly.evaluators.guarded import PassingFault
from agentfly.evaluators.http_schema import HEALTH_PATH, PATH, SLEEP_PATH, WAKE_PATH, ScoreBody, to_body
from agentfly.lenient_json import field_of
from agentfly.redaction import public_url, read_key, redact
from agentfly.settings import Settings

_MOST_PLACES = 5
_LONGEST_REASON = 300  # characters


class HttpEvaluatorSettings(Settings):
    """Address, key and limits of the server.

    Attributes:
        base_url: address of the server, without `/v1`.
        api_key_env: environment variable with the key, sent as a bearer token where it is set.
        timeout: seconds for a request.
        max_connections: requests that run at once.
    """

    base_url: str = Field(pattern=r"^https?://")
    api_key_env: str = "AGENTFLY_EVALUATOR_KEY"
    timeout: float = Field(120.0, gt=0)
    max_connections: int = Field(16, ge=1)


class HttpEvaluator:
    """Scores by asking a server. Faults that may pass are `PassingFault`: put a `GuardedEvaluator` around it.

    Args:
        settings: address, key and limits.
        transport: carries the requests in place of the network, for tests.
    """

    def __init__(self, settings: HttpEvaluatorSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.settings = settings
        self._url = public_url(settings.base_url)
        self._transport = transport
        self._client = LoopLocal(self._make)

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample.

        Raises:
            PassingFault: the server does not answer, is overloaded or failed; the same sample may be scored later.
            EvaluatorError: the server cannot score this sample, or its answer is not a score.
            ConfigError: the key or the address is refused.
        """
        body = await asyncio.to_thread(lambda: json.dumps(to_body(sample)).encode())
        try:
            reply = await self._client.get().post(PATH, content=body, headers={"content-type": "application/json"})
        except httpx.HTTPError as fault:
            raise PassingFault(self._no_answer(fault)) from fault
        if reply.status_code != 200:
            raise self._refusal(reply)
        try:
            return ScoreBody.model_validate_json(reply.content).score()
        except ValidationError as fault:
            places = [".".join(map(str, error["loc"])) or "body" for error in fault.errors()]
            why = self._reason(reply) or f"{', '.join(places[:_MOST_PLACES])} is wrong"[:_LONGEST_REASON]
            raise EvaluatorError(f"the evaluator at {self._url} gave no score: {why}") from None

    async def check_ready(self) -> None:
        """Send a request without a sample, which every server refuses; see `AsksOthers.check_ready`."""
        try:
            # The request's own clock would run while another evaluator's libraries are imported.
            request = self._client.get().post(PATH, json={}, timeout=None)
            reply = await with_waiting_limit(request, READY_SECONDS / 2)
        except (httpx.HTTPError, TimeLimitExceeded) as fault:
            raise EvaluatorError(f"{self._no_answer(fault)}: check base_url, and that the server runs") from fault
        # A server may answer 500 to a request without a sample; one that is still starting answers 502 or 503.
        if reply.status_code in (401, 403, 404, 405, 421) or reply.status_code > 500:
            raise self._refusal(reply)

    async def server_can_sleep(self) -> bool | None:
        """Ask the server, without waking or loading anything, if it has a model that could sleep.

        Returns:
            None where it does not say: it is of somebody else's, or does not answer.
        """
        try:
            reply = await self._client.get().get(HEALTH_PATH)
            said = field_of(reply.json(), "can_sleep")
        except (httpx.HTTPError, ValueError, RecursionError):
            return None
        return said if isinstance(said, bool) else None

    async def sleep(self) -> bool:
        """Have the server's model free its device, once its batch under way has ended; False if it has no model.

        Raises:
            EvaluatorError: the server did not do it.
            ConfigError: the key is refused.
        """
        return await self._tell(SLEEP_PATH)

    async def wake(self) -> bool:
        """Have the server's model take its device again; returns and raises as `sleep` does."""
        return await self._tell(WAKE_PATH)

    async def _tell(self, path: str) -> bool:
        try:
            reply = await self._client.get().post(path)
        except httpx.HTTPError as fault:
            raise PassingFault(self._no_answer(fault)) from fault
        # 409 is ours; servers of others need not know these paths.
        if reply.status_code in (404, 405, 409):
            return False
        if reply.status_code != 200:
            raise self._refusal(reply)
        return True

    async def close(self) -> None:
        """Close the connections of the running event loop."""
        client = self._client.take()
        if client is not None:
            await client.aclose()

    def _make(self) -> httpx.AsyncClient:
        key = read_key(self.settings.api_key_env)
        return httpx.AsyncClient(
            base_url=self.settings.base_url,
            timeout=self.settings.timeout,
            headers={"authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=self.settings.max_connections),
            transport=self._transport,
        )

    def _no_answer(self, fault: httpx.HTTPError | TimeLimitExceeded) -> str:
        reason = redact(str(fault), read_key(self.settings.api_key_env)) or type(fault).__name__
        return f"the evaluator at {self._url} does not answer ({reason})"

    def _refusal(self, reply: httpx.Response) -> Exception:
        said = self._reason(reply) or "no reason given"
        reason = f"the evaluator at {self._url}: HTTP {reply.status_code}: {said}"
        if reply.status_code in (401, 403):
            return ConfigError(f"{reason}; set {self.settings.api_key_env}")
        if reply.status_code == 421:
            return ConfigError(reason)
        if reply.status_code in (404, 405):
            return ConfigError(f"{reason}; check base_url, which ends before {PATH}")
        if reply.status_code in (408, 425, 429) or reply.status_code >= 500:
            return PassingFault(reason)
        return EvaluatorError(reason)

    def _reason(self, reply: httpx.Response) -> str | None:
        """Return the server's own words for a failure; None where its body has none."""
        try:
            body = reply.json()
        except (ValueError, RecursionError):
            return None
        error = next((found for name in ("error", "detail", "message") if (found := field_of(body, name))), None)
        said = field_of(error, "message") or error
        if not said:
            return None
        return redact(" ".join(str(said).split()), read_key(self.settings.api_key_env))[:_LONGEST_REASON]
