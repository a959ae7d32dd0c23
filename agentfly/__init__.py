"""agentfly: RL training for image-editing agents that use tools.

Importing this package is cheap on purpose: no torch, vLLM, Ray, verl or diffusers until a room that needs them is used.
"""

__version__ = "0.1.0"
