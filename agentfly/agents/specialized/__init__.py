"""Agents for one kind of work each, and their commands."""
