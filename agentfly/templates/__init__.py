"""Chat templates, and the codec that turns messages into exact token ids with them."""

from agentfly.templates.codec import ChatCodec, escape_special_tokens
from agentfly.templates.loader import available_templates, load_template, register_template, template_names

__all__ = [
    "ChatCodec",
    "available_templates",
    "escape_special_tokens",
    "load_template",
    "register_template",
    "template_names",
]
