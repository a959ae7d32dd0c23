"""The text systems as recipes: `python -m recipes.text_systems`, and `recipes.text_systems.website_builder`."""
