"""The package of the document on TFrameX; `agentfly.systems` has its classes."""
