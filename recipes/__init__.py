"""Recipes: what the project can do, end to end, as commands."""
