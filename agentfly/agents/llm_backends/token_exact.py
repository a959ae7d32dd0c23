"""Token-exact rollouts: the prompt that a server worked on is compared with the ids that training will see.

A vLLM server's chat endpoint renders the conversation itself and returns the ids of its prompt (`return_token_ids`). It
is sent the turns of the policy as they were sampled, and its prompt is compared with the rollout's ids. Equal ids are
token-exact; different ids are a `BackendError` that ends the chain. They differ if the server has another template or
processor, or if the sampled ids are not those into which their text is tokenised: a chat endpoint takes text and not
ids. vLLM in this process takes ids, and its prompt is compared all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import cast

from agentfly.agents.llm_backends.base import Generation, GenerationRequest
from agentfly.agents.llm_backends.openai_format import Reply
from agentfly.errors import BackendError
from agentfly.messages import Message, TextPart
from agentfly.templates import ChatCodec

_MOST_SESSIONS = 4096
_OTHER_SERVER = (
    "Serve the checkpoint of backend_config with the agent's template: "
    "python -m agentfly.utils.deploy --model_name_or_path CHECKPOINT --template TEMPLATE"
)
_OTHER_TOKENS = (
    "Both are the same text: the policy sampled ids into which the server does not tokenise it. "
    "Where that is frequent, use backend='async_vllm', which takes ids"
)


def check_prompt(theirs: Sequence[int], ours: Sequence[int], advice: str) -> None:
    """Compare the prompt that vLLM worked on with the exact ids of the request.

    Args:
        theirs: ids that vLLM reports, placeholders expanded.
        ours: ids that training will see.
        advice: last sentence of the message, on how to make them equal.

    Raises:
        BackendError: they differ; the message names the first difference.
    """
    if list(theirs) == list(ours):
        return
    pairs = zip(theirs, ours, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(theirs), len(ours)))
    raise BackendError(
        f"vLLM's prompt ({len(theirs)} ids) is not the rollout's ({len(ours)} ids); first difference at {first}: "
        f"vLLM {list(theirs[first : first + 4])}, rollout {list(ours[first : first + 4])}. {advice}"
    )


class TokenExact:
    """The parts of the client's work that differ when its turns are token-exact.

    Args:
        codec: of the checkpoint that is served, with the template it is served with.
    """

    def __init__(self, codec: ChatCodec) -> None:
        self.codec = codec
        # Text of each sampled turn by the number of assistant messages before it, for the sessions last seen.
        self._sampled: OrderedDict[str, dict[int, str]] = OrderedDict()

    def messages(self, request: GenerationRequest, urls: Mapping[str, str]) -> list[Mapping[str, object]]:
        """Return the conversation as the server must render it.

        Texts are as the codec reads them, and turns as they were sampled.

        Args:
            request: the conversation.
            urls: data URI of each image handle.
        """
        sampled = self._sampled.get(request.session_id, {})
        out: list[Mapping[str, object]] = []
        turns = 0
        for message in request.messages:
            if message.role == "assistant" and turns in sampled:
                rendered = Message("assistant", (TextPart(sampled[turns]),))
            else:
                rendered = self.codec.escape(message)
            turns += message.role == "assistant"
            out.append(rendered.to_openai(urls.__getitem__))
        return out

    def fields(self, request: GenerationRequest, extra: Mapping[str, object]) -> dict[str, object]:
        """Return the extra fields of the request's body.

        `tool_choice` is "none" because the text comes back whole then; the schemas are in the prompt all the same.

        Args:
            request: the conversation and its tools.
            extra: fields that the user gave.
        """
        given = cast("Mapping[str, float]", extra.get("logit_bias", {}))
        choice = {"tool_choice": "none"} if request.tools else {}
        exact = {"return_token_ids": True, "logprobs": True, "stop_token_ids": sorted(self.codec.eos_ids)}
        return {
            **choice,
            **extra,
            **exact,
            "logit_bias": {**dict.fromkeys(map(str, self.codec.never_sampled), -100.0), **given},
        }

    def check(self, reply: Reply, request: GenerationRequest) -> None:
        """Compare the server's prompt with the request's, once, as soon as it is known.

        Args:
            reply: the answer so far; it is marked as checked.
            request: the conversation with its exact ids.

        Raises:
            BackendError: they differ.
        """
        if reply.prompt_ids is None or reply.prompt_checked:
            return
        reply.prompt_checked = True
        same_text = self.codec.decode(reply.prompt_ids) == self.codec.decode(request.prompt_ids)
        check_prompt(reply.prompt_ids, request.prompt_ids, _OTHER_TOKENS if same_text else _OTHER_SERVER)

    def generation(self, reply: Reply, request: GenerationRequest) -> Generation:
        """Return the turn with its ids and log-probs, and remember its text for the next request.

        Args:
            reply: the complete answer.
            request: the conversation that it answers.

        Raises:
            BackendError: the server did not send ids and log-probs.
        """
        parsed = reply.generation()
        if not reply.prompt_checked or not reply.token_ids or len(reply.logprobs) != len(reply.token_ids):
            raise BackendError(
                f"the server sent {len(reply.token_ids)} token ids and {len(reply.logprobs)} log-probs; "
                "return_token_ids of backend_config needs a vLLM server: set it to false for inexact rollouts"
            )
        text = self.codec.decode(reply.token_ids)
        turn = sum(message.role == "assistant" for message in request.messages)
        self._sampled.setdefault(request.session_id, {})[turn] = text
        self._sampled.move_to_end(request.session_id)
        if len(self._sampled) > _MOST_SESSIONS:
            self._sampled.popitem(last=False)
        return Generation(
            text=text,
            finish_reason=parsed.finish_reason,
            tool_calls=parsed.tool_calls,
            token_ids=tuple(reply.token_ids),
            logprobs=tuple(reply.logprobs),
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=len(reply.token_ids),
        )
