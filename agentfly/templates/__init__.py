"""Chat templates, and the codec that turns messages into exact token ids with them."""

from agentfly.templates.codec import ChatCodec
from agentfly.templates.loader import available_templates, load_template, register_template, template_names

__all__ = [
    "ChatCodec",
    "available_templates",
    "load_template",
    "register_template",
    "template_names",
]
