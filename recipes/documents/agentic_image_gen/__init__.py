"""The package of the document on the image generation system; `agentfly generate` does the work."""
