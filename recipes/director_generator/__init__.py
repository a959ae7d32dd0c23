"""Directors and generators that make an image from a prompt; see docs/director_generator.md."""
