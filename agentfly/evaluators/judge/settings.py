"""Settings of the VLM judge, and the record of its usage."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from agentfly.settings import Settings


class JudgeSettings(Settings):
    """Address, sampling and limits of the judge. Keys come from the environment only.

    Attributes:
        model: name of the model on the server.
        base_url: address up to /v1 of any OpenAI-compatible server; None is OpenAI's.
        api_key_env: environment variable with the key; a server of your own may need none.
        scheme: "viescore", "simple" or "generation"; see `agentfly.evaluators.judge.schemes`.
        rubric: name of a rubric or path of a YAML file; None for none.
        passes: independent judgements of a sample; their mean is the score.
        temperature: of the judge; several passes are of use only above 0. None leaves it to the server.
        seed: of the first pass; passes and attempts add to it. None leaves it to the server.
        max_tokens: tokens of a reply at most, reasoning included; None leaves it to the server.
        expected_score: take the mean of the judge's distribution over numbers where the server gives log-probs.
        top_logprobs: alternatives for each token that the server is asked for.
        max_pixels: pixels of each image that is sent at most.
        timeout: seconds for one request, answer included.
        attempts: requests for each question at most, broken replies and passing faults together.
        first_wait, max_wait: seconds between attempts after a passing fault: doubled each time, and at most.
        in_flight: requests that run at once.
        requests_per_minute: rate limit; None for none.
        input_price, output_price: cost of a million tokens, in any currency.
    """

    model: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    scheme: str = "viescore"
    rubric: str | None = None
    passes: int = Field(1, ge=1)
    temperature: float | None = Field(0.0, ge=0)
    seed: int | None = None
    max_tokens: int | None = Field(1024, ge=16)
    expected_score: bool = False
    top_logprobs: int = Field(20, ge=1)
    max_pixels: int = Field(1024 * 1024, ge=1024)
    timeout: float = Field(120.0, gt=0)
    attempts: int = Field(4, ge=1)
    first_wait: float = Field(0.5, ge=0)
    max_wait: float = Field(20.0, ge=0)
    in_flight: int = Field(32, ge=1)
    requests_per_minute: float | None = Field(None, gt=0)
    input_price: float = Field(0.0, ge=0)
    output_price: float = Field(0.0, ge=0)


@dataclass
class JudgeUsage:
    """Cost of judging one sample, or of a judge so far.

    Attributes:
        samples, not_scored: samples judged, and those among them that got no score.
        requests, failed: requests sent, and those among them that gave no ratings.
        prompt_tokens, completion_tokens: as the server counts them, failed requests included.
        cost: of the tokens at the prices of the settings.
        seconds: summed time of the requests, without waiting for a free place.
        models: names of the models that answered, as the server gives them.
        dates: days of the answers (UTC), such as 2026-12-01.
    """

    samples: int = 0
    not_scored: int = 0
    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    models: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # JSON has lists only.
        self.models, self.dates = tuple(self.models), tuple(self.dates)

    def add(self, other: JudgeUsage) -> None:
        """Add the numbers of another record to this one, and join its models and dates."""
        for name, value in vars(other).items():
            own = getattr(self, name)
            joined = tuple(sorted({*own, *value})) if isinstance(value, tuple) else own + value
            setattr(self, name, joined)

    def note(self, model: str, date: str) -> None:
        """Add the model of an answer ("" where the server does not name it) and its day."""
        self.models = tuple(sorted({*self.models, *filter(None, [model])}))
        self.dates = tuple(sorted({*self.dates, date}))
