"""Parametric retouching of pixels, without engines: the work of the retouch tools as pure functions.

Pixels are RGB or RGBA arrays of 8 or 16 bits in sRGB (see `agentfly/vision/retouching/light.py`). Each function returns
a new array of the same type. Parameters at zero return the pixels exactly. Amounts have the ranges that photo editors
use: stops, or -100 to 100.
"""

from agentfly.vision.retouching.colour import adjust_colour, adjust_hue_range, white_balance_gains
from agentfly.vision.retouching.detail import add_grain, blur, sharpen
from agentfly.vision.retouching.geometry import crop, flip, resize, rotate, straighten_perspective
from agentfly.vision.retouching.light import Pixels, blend, from_linear, to_linear
from agentfly.vision.retouching.tone import adjust_tone

__all__ = [
    "Pixels",
    "add_grain",
    "adjust_colour",
    "adjust_hue_range",
    "adjust_tone",
    "blend",
    "blur",
    "crop",
    "flip",
    "from_linear",
    "resize",
    "rotate",
    "sharpen",
    "straighten_perspective",
    "to_linear",
    "white_balance_gains",
]
