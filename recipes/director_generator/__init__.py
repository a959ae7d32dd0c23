"""Directors and generators that make a picture from a prompt; see docs/director_generator.md."""
