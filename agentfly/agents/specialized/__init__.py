"""Agents for one kind of work each, and the commands that belong to them."""
