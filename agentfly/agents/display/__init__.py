"""Show a run to people: a console with each step, images in a terminal, strips and GIFs."""
