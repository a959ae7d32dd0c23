"""Servers: pictures over HTTP, and models behind OpenAI-compatible endpoints. Nothing heavy is imported here."""
