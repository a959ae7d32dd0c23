"""Parametric retouching of pixels, without engines: what the retouch tools do, as pure functions.

Pixels are RGB or RGBA arrays of 8 or 16 bits in sRGB (see `agentfly/vision/retouching/light.py`). Each function returns
a new array of the same type. Parameters at zero return the pixels exactly. Amounts and ranges are those that photo
editors have: stops, or -100 to 100.
"""

from agentfly.vision.retouching.color import adjust_color, adjust_hue_range, white_balance_gains
from agentfly.vision.retouching.light import Pixels, from_linear, to_linear
from agentfly.vision.retouching.tone import adjust_tone

__all__ = [
    "Pixels",
    "adjust_color",
    "adjust_hue_range",
    "adjust_tone",
    "from_linear",
    "to_linear",
    "white_balance_gains",
]
