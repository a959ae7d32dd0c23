"""The refinement loop: generator, evaluator and prompter take turns until an image is good enough.

`agentfly generate` runs it from the command line; `task_agent` runs it on tasks, beside trained agents.
"""

from agentfly.systems.generators import GeneratedImage, ImageRequest
from agentfly.systems.generators import ImageGenerator as Generator
from agentfly.systems.refinement.factory import make_generator, make_loop
from agentfly.systems.refinement.loop import Iteration, LoopEnd, Refinement, RefinementLoop
from agentfly.systems.refinement.prompter import ChatPrompter, Critique, FeedbackPrompter, Prompter, ResponsesPrompter
from agentfly.systems.refinement.settings import RefinementSettings

__all__ = [
    "ChatPrompter",
    "Critique",
    "FeedbackPrompter",
    "GeneratedImage",
    "Generator",
    "ImageRequest",
    "Iteration",
    "LoopEnd",
    "Prompter",
    "Refinement",
    "RefinementLoop",
    "RefinementSettings",
    "ResponsesPrompter",
    "make_generator",
    "make_loop",
]
