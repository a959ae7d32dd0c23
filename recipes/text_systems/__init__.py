"""The text systems as recipes: `python -m recipes.text_systems`, and `.website_builder` behind it."""
