"""Servers: image models over HTTP, and policies behind OpenAI-compatible endpoints. Nothing heavy is imported here."""
