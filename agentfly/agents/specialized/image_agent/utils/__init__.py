"""Commands of the image-editing agent."""
