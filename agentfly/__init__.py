"""agentfly: RL training for image-editing agents that use tools.

Importing this package is cheap: torch, vLLM, Ray, verl and diffusers are imported only by the packages that need them.
"""

__version__ = "0.1.0"
