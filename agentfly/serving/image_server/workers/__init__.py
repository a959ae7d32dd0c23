"""The worker processes of the image server: their queue, their messages, and the process with the engine."""
