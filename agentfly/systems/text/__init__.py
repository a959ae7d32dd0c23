"""Agents and systems that read and write text, on any LLM backend; `agentfly.systems` exports them."""
