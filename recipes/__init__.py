"""Recipes: end-to-end examples of the project, as commands."""
