"""The ways in which OpenAI-compatible servers and gateways differ from OpenAI.

Some refuse a parameter that others require (`Fallbacks`), some send an error in an answer of status 200
(`check_answer`), and some send content as a list of parts (`split_content`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

# What is sent in place of a parameter that a server refuses; None leaves it out. Without these a request is as good, or
# nearly. All other parameters mean something that the user asked for: their refusal is an error.
_INSTEAD: Mapping[str, str | None] = {
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_completion_tokens",
    "stream_options": None,
    "seed": None,
    "top_p": None,
    "temperature": None,
    "logprobs": None,
    "response_format": None,
}
# How servers name a parameter in snake case and in camel case, where that is more than its own name.
_ALIASES = {
    "stream_options": "stream_?options|include_?usage",
    "logprobs": "(?:top_?)?logprobs",
    "response_format": r"response_?format|json_?schema|guided\w*|structured\w*",
}
# Servers refuse these two in too many ways (schemas that they cannot compile), and no value of theirs is the user's.
_EXTRAS = ("logprobs", "response_format")
# A gateway may pass the refusal of its provider on as a fault of the server; in a stream there may be no status.
_REFUSAL_STATUSES = (None, 400, 405, 422, 500, 501, 502)
_THINGS = r"(?:param|arg|field|key|propert|input|option|name)"
# Words that are only ever said of a parameter, and words that may be said of its value, or of something else.
_REFUSES = re.compile(
    rf"unrecogni[sz]ed|deprecated|extraneous|extra_forbidden|additional propert|extra (?:inputs?|fields?)|"
    rf"cannot find field|only the default|may only be set|or unset|unexpected (?:\w+ )?{_THINGS}|"
    rf"\b{_THINGS}\w*\W[^,;]{{0,40}} unexpected",
    re.IGNORECASE,
)
_MAY_REFUSE = re.compile(
    r"(?:unsupported|unknown)(?! error)|(?:\bnot|n't|cannot|no longer) (?:\w+ ){0,2}?"
    r"(?:support|permit|allow|recogni[sz]|accept|available|implement|specified|set|used|provided|"
    rf"a valid {_THINGS})",
    re.IGNORECASE,
)
# "temperature must not be set above 1" is about the value: what the user asked for is wrong, not unknown.
_COMPARES = re.compile(
    r"(?<!\bversion )(?<!\bversions )\b(?:above|below|beyond|between|exceed\w*|"
    r"(?:greater|less|higher|lower|more|larger|smaller) than|outside)\b",
    re.IGNORECASE,
)
# "unsupported parameter", "does not support parameters", "parameter x is not supported", "seed is not supported"
_SAYS_PARAMETER = re.compile(
    "extra_forbidden|"
    rf"(?:unsupported|unrecogni[sz]ed|unknown|unexpected|extraneous|extra|additional) (?:\w+ )?{_THINGS}|"
    rf"(?:support|accept|allow|permit) (?:the )?(?:\w+ )?{_THINGS}|"
    rf"\b{_THINGS}\w*\W[^,;]{{0,40}}(?:unsupported|unexpected|(?:not|n't) (?:\w+ )?"
    r"(?:support|permit|allow|recogni[sz]|accept))|"
    rf"\b(?:{'|'.join((*_INSTEAD, 'include_usage'))})\b\W{{0,3}}(?:is |are |was )?"
    r"(?:not |no longer |cannot |unsupported|deprecated|un(?:known|recogni[sz]ed)|must not |may only )",
    re.IGNORECASE,
)
# A clause that names more of our parameters than this, and speaks of no list of them, repeats the request.
_MOST_NAMED = 2
_LISTS = re.compile(
    r"\b(?:parameter|param|argument|arg|field|key|propertie|input|option|name)(?:s|\(s\))(?!\w)|\b(?:these|following)\b",
    re.IGNORECASE,
)
# A server takes either of the two: "temperature and top_p cannot both be specified".
_EITHER = re.compile(
    r"\bboth\b|only one|one of|\beither\b|together|same time|simultaneous|mutually|combin", re.IGNORECASE
)
_CLAUSE = re.compile(r"[;\n]|[.!?](?=\s|$)")
# The rest of a clause that lists what the server does take.
_VALID = re.compile(
    r",?\s*\bexpected\b.*|\b(?:supported|allowed|valid|accepted|known) (?:parameter|field|argument|param|key)s.*",
    re.IGNORECASE | re.DOTALL,
)

_STATUS_KEYS = ("code", "status", "status_code", "http_code")
_STATUS_NAMES: Mapping[str, int] = {
    **dict.fromkeys(("invalid_request_error", "badrequesterror", "bad_request", "invalid_argument"), 400),
    **dict.fromkeys(("context_length_exceeded", "content_policy_violation"), 400),
    **dict.fromkeys(("authentication_error", "invalid_api_key", "unauthenticated", "unauthorized"), 401),
    **dict.fromkeys(("insufficient_credits", "payment_required", "billing_error"), 402),
    **dict.fromkeys(("permission_error", "permission_denied", "forbidden"), 403),
    **dict.fromkeys(("not_found_error", "notfounderror", "model_not_found", "not_found"), 404),
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "too_many_requests", "resource_exhausted"), 429),
    **dict.fromkeys(("throttlingexception", "throttling_exception", "insufficient_quota"), 429),
    **dict.fromkeys(("server_error", "internal_server_error", "internal_error", "api_error", "internal"), 500),
    **dict.fromkeys(("overloaded_error", "overloaded", "unavailable", "service_unavailable"), 503),
    **dict.fromkeys(("timeout_error", "deadline_exceeded", "gateway_timeout"), 504),
}

_TELLS = ("message", "msg", "detail", "details", "error", "errors", "error_msg", "description", "metadata", "raw")
_DEEPEST, _MOST_ENTRIES, _LONGEST_JSON = 8, 20, 100_000

FAILED_FINISHES = ("error", "insufficient_system_resource")
"""Reasons to finish by which gateways say that they, or the server behind them, failed in the middle of an answer."""

_TEXT_TYPES = ("text", "output_text", "input_text", "refusal")
_THOUGHT_TYPES = ("thinking", "reasoning", "thought", "reasoning_text", "summary_text")
_CONTENT_KEYS = ("text", "value", "thinking", "reasoning", "thought", "refusal", "content", "summary")


def split_content(content: object) -> tuple[str, str]:
    """Return the thoughts and the text of a message's content, which is text, a list of parts, one part, or nothing."""
    if not content or isinstance(content, str):
        return "", content if isinstance(content, str) else ""
    return _joined(content, thinking=True), _joined(content, thinking=False)


def _joined(content: object, *, thinking: bool, depth: int = 0) -> str:
    """Return the joined text of the parts that are thoughts, or of those that are not."""
    if isinstance(content, str):
        return "" if thinking else content
    if depth > _DEEPEST:
        return ""
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return "".join(_joined(part, thinking=thinking, depth=depth + 1) for part in content)
    if not isinstance(content, Mapping):
        return ""
    kind = content.get("type")
    thought = kind in _THOUGHT_TYPES
    if thought != thinking or not (thought or kind is None or kind in _TEXT_TYPES):
        return ""
    given = (content[key] for key in _CONTENT_KEYS if content.get(key))
    # What is inside of a thought is thought, whatever its own type.
    return _joined(next(given, ""), thinking=False, depth=depth + 1)


def check_answer(answer: object) -> None:
    """Raise the error that a server has put into an answer of status 200, or into a piece of a stream.

    Raises:
        openai.APIError: with the error as its body, in which `read_fault` finds the status.
    """
    choices = getattr(answer, "choices", None)
    if type(choices) is list and choices and not getattr(answer, "model_extra", None) and not _extra(choices[0]):
        return  # nearly every answer, and every piece of a stream
    error = _error_in(answer)
    if error is None:
        return
    import openai

    message = next(words_of(error), "the server reports an error in an answer of status 200")
    # The request is only for callers who want to look at it, and no answer carries its own.
    raise openai.APIError(message, request=None, body=error)  # type: ignore[arg-type]


def _error_in(answer: object) -> object | None:
    if isinstance(answer, Sequence) and not isinstance(answer, str | bytes) and len(answer) == 1:
        answer = answer[0]
    fields = _extra(answer)
    error = fields.get("error")
    if _tells(error):
        return error
    choices = getattr(answer, "choices", None)
    if isinstance(choices, Sequence) and choices:
        error = _extra(choices[0]).get("error")
        return error if _tells(error) else None
    failed = getattr(answer, "object", None) == "error" or status_of(fields) is not None
    return fields if failed and next(words_of(fields), None) else None


def _extra(answer: object) -> Mapping[str, object]:
    """Return the fields of an object of the SDK that OpenAI does not document."""
    return getattr(answer, "model_extra", None) or {}


def _tells(error: object) -> bool:
    """Return True for an error; some servers send an empty one with each good answer."""
    return any(error.values()) if isinstance(error, Mapping) else bool(error)


def status_of(body: object) -> int | None:
    """Return the HTTP status that the body of an error names, in a number or a word; None where there is none."""
    if not isinstance(body, Mapping):
        return None
    for key in _STATUS_KEYS:
        value = body.get(key)
        number = int(value) if isinstance(value, str) and re.fullmatch("[45][0-9][0-9]", value) else value
        if isinstance(number, int) and 400 <= number <= 599:
            return number
    for key in (*_STATUS_KEYS, "type"):
        value = body.get(key)
        name = value.strip().lower().replace(" ", "_") if isinstance(value, str) else ""
        if name in _STATUS_NAMES:
            return _STATUS_NAMES[name]
    return None


def words_of(body: object, depth: int = 0) -> Iterator[str]:
    """Yield what the body of an error says, in whatever form; a page of HTML says nothing."""
    if depth > _DEEPEST:
        return
    if isinstance(body, str):
        text = body.strip()
        inner = _json(text) if text.startswith(("{", "[")) else None
        if inner is not None:
            yield from words_of(inner, depth + 1)
        elif text and not text.startswith("<"):
            yield text
    elif isinstance(body, Mapping):
        place, message = body.get("loc"), body.get("msg")
        if isinstance(place, Sequence) and isinstance(message, str):
            # Pydantic's form. Its `input` may be the whole request, and is left out.
            yield f"{place if isinstance(place, str) else '.'.join(map(str, place))}: {message}"
            return
        for key in _TELLS:
            yield from words_of(body.get(key), depth + 1)
    elif isinstance(body, Sequence) and not isinstance(body, bytes):
        for item in body[:_MOST_ENTRIES]:
            yield from words_of(item, depth + 1)


def _json(text: str) -> object | None:
    try:
        value: object = json.loads(text) if len(text) <= _LONGEST_JSON else None
    except (ValueError, RecursionError):
        return None
    return value


class Fallbacks:
    """The parameters that one server has refused, and what it gets in their place from then on.

    Args:
        who: the model, for the log.
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._refused: set[str] = set()
        self._either = False

    def adapt(self, body: Mapping[str, object]) -> dict[str, object]:
        """Return the body of a request without what the server has refused."""
        out = {(_INSTEAD[name] if name in self._refused else name): value for name, value in body.items()}
        adapted = {name: value for name, value in out.items() if name is not None}
        if "logprobs" not in adapted:
            adapted.pop("top_logprobs", None)
        if self._either and "temperature" in adapted and "top_p" in adapted:
            # A temperature of 1 changes nothing of what the model says, unless the server's own default is another.
            del adapted["temperature" if adapted["temperature"] == 1 else "top_p"]
        return adapted

    def learn(self, fault: openai.APIError, body: Mapping[str, object], reason: str) -> bool:
        """Note the parameters that an error refuses. Return True if the request is worth sending again without them.

        Args:
            fault: the error.
            body: the request as it was sent.
            reason: the server's words without secrets, for the log.
        """
        status: int | None = getattr(fault, "status_code", None) or status_of(fault.body)
        if status not in _REFUSAL_STATUSES:
            return False
        either, names = _refused_in(fault, body, status)
        for name in names - self._refused:
            instead = _INSTEAD[name]
            if instead in self._refused:
                # The server takes the limit by neither name.
                continue
            what = "it is left out" if instead is None else f"{instead!r} is sent instead"
            logger.warning("%s does not take %r; %s from now on (%s)", self._who, name, what, reason)
            self._refused.add(name)
        if either and not self._either:
            logger.warning("%s takes either temperature or top_p; one is left out from now on (%s)", self._who, reason)
            self._either = True
        return self.adapt(body) != dict(body)


def _refused_in(fault: openai.APIError, body: Mapping[str, object], status: int | None) -> tuple[bool, set[str]]:
    """Return what an error refuses of a request: temperature beside top_p, and the names of single parameters."""
    known = {name: _pattern(name) for name in _INSTEAD if name in body}
    param, code = fault.param, str(fault.code or "").lower()
    refused = code.startswith(("unsupported", "unknown", "unrecognized"))
    either, names = False, set[str]()
    for text in dict.fromkeys(words_of(fault.body)) or (fault.message,):
        for clause in _CLAUSE.split(text):
            named = {name for name, pattern in known.items() if pattern.search(_VALID.sub("", clause))}
            if named == {"temperature", "top_p"} and _EITHER.search(clause):
                either = True
            elif _refuses(clause, len(named), failed=status is not None and status >= 500):
                refused = True
                names |= named
            elif status in (400, 422):
                names |= named.intersection(_EXTRAS)
    if refused and isinstance(param, str) and param in known:
        names.add(param)
    return either, names


def _refuses(clause: str, named: int, *, failed: bool) -> bool:
    """Return True if a clause refuses parameters.

    Args:
        clause: of the error's words.
        named: number of our parameters in it.
        failed: the server reports a fault of its own. It may tell what it was doing, and with what request.
    """
    if not (_REFUSES.search(clause) or (_MAY_REFUSE.search(clause) and not _COMPARES.search(clause))):
        return False
    if named > _MOST_NAMED and not _LISTS.search(clause):
        return False
    return not failed or _SAYS_PARAMETER.search(clause) is not None


def _pattern(name: str) -> re.Pattern[str]:
    names = _ALIASES.get(name, name.replace("_", "_?"))
    return re.compile(rf"(?<![A-Za-z0-9_])(?:{names})(?![A-Za-z0-9_])", re.IGNORECASE)
