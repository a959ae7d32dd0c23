"""Token-exact rollouts through a vLLM server's chat endpoint.

The server renders the conversation itself and returns the ids of its prompt (`return_token_ids`). It is sent the turns
of the policy as they were sampled, and its prompt is compared with the rollout's ids. Equal ids are token-exact;
different ids are a `BackendError` that ends the chain. They differ if the server has another template or processor, or
if the sampled ids are not those into which their text is tokenised: a chat endpoint takes text and not ids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from agentfly.agents.llm_backends.base import Generation, GenerationRequest
from agentfly.agents.llm_backends.openai_format import Reply
from agentfly.agents.llm_backends.parity import check_prompt
from agentfly.errors import BackendError
from agentfly.messages import Message, TextPart
from agentfly.templates import ChatCodec, escape_special_tokens

_SESSIONS = 4096
_OTHER_SERVER = (
    "Serve the checkpoint of backend_config with the agent's template: "
    "python -m agentfly.utils.deploy --model_name_or_path CHECKPOINT --template TEMPLATE"
)
_OTHER_TOKENS = (
    "Both are the same text: the policy sampled ids into which the server does not tokenise it. "
    "Where that is frequent, use backend='async_vllm', which takes ids"
)


class TokenExact:
    """What the client does differently when it is to be exact.

    Args:
        codec: of the checkpoint that is served, with the template it is served with.
    """

    def __init__(self, codec: ChatCodec) -> None:
        self.codec = codec
        # Text of each sampled turn by the number of assistant messages before it, for the sessions last seen.
        self._sampled: OrderedDict[str, dict[int, str]] = OrderedDict()

    def messages(self, request: GenerationRequest, urls: Mapping[str, str]) -> list[dict[str, Any]]:
        """The conversation as the server must render it: texts as the codec reads them, turns as they were sampled."""
        sampled = self._sampled.get(request.session_id, {})
        out: list[dict[str, Any]] = []
        turns = 0
        for message in request.messages:
            if message.role == "assistant" and turns in sampled:
                said = Message("assistant", (TextPart(sampled[turns]),))
            else:
                said = escape_special_tokens(message)
            turns += message.role == "assistant"
            out.append(said.to_openai(urls.__getitem__))
        return out

    def fields(self, request: GenerationRequest, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of the request's body, with those that the user gave.

        `tool_choice` is "none" because the text comes back whole then; the schemas are in the prompt all the same.
        """
        bias = {str(self.codec.image_id): -100.0, **extra.get("logit_bias", {})}
        choice = {"tool_choice": "none"} if request.tools else {}
        exact = {"return_token_ids": True, "logprobs": True, "stop_token_ids": sorted(self.codec.eos_ids)}
        return {**choice, **extra, **exact, "logit_bias": bias}

    def check(self, reply: Reply, request: GenerationRequest) -> None:
        """Compare the server's prompt with the request's, once, as soon as it is known.

        Raises:
            BackendError: they differ.
        """
        if reply.prompt_ids is None or reply.prompt_checked:
            return
        reply.prompt_checked = True
        same_text = self.codec.decode(reply.prompt_ids) == self.codec.decode(request.prompt_ids)
        check_prompt(reply.prompt_ids, request.prompt_ids, _OTHER_TOKENS if same_text else _OTHER_SERVER)

    def generation(self, reply: Reply, request: GenerationRequest) -> Generation:
        """The turn with its ids and log-probs.

        Raises:
            BackendError: the server did not send them.
        """
        said = reply.generation()
        if not reply.prompt_checked or not reply.token_ids or len(reply.logprobs) != len(reply.token_ids):
            raise BackendError(
                f"the server sent {len(reply.token_ids)} token ids and {len(reply.logprobs)} log-probs; "
                "return_token_ids of backend_config needs a vLLM server: set it to false for inexact rollouts"
            )
        text = self.codec.decode(reply.token_ids)
        self._remember(request, text)
        return Generation(
            text=text,
            finish_reason=said.finish_reason,
            tool_calls=said.tool_calls,
            token_ids=tuple(reply.token_ids),
            logprobs=tuple(reply.logprobs),
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=len(reply.token_ids),
        )

    def _remember(self, request: GenerationRequest, text: str) -> None:
        turn = sum(message.role == "assistant" for message in request.messages)
        self._sampled.setdefault(request.session_id, {})[turn] = text
        self._sampled.move_to_end(request.session_id)
        if len(self._sampled) > _SESSIONS:
            self._sampled.popitem(last=False)
