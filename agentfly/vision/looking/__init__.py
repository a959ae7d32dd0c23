"""Look at images without changing them: views to be seen, and measures in figures. OpenCV and NumPy, no weights.

Every function is pure and deterministic, takes images of any mode, and sees them as a model does: transparent parts on
white, greys of 16 bits scaled to 8. Boxes are (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
"""

from agentfly.vision.looking.changes import Change, change_map, changed_regions, measure_change, scaled_to
from agentfly.vision.looking.colours import NAMES, colour_names, colour_of, dominant_colours, visible
from agentfly.vision.looking.measures import Box, Region, measure_mask, measure_tones, regions_of
from agentfly.vision.looking.views import (
    LEAST_PIXELS,
    difference_view,
    histogram_view,
    side_by_side,
    view_budget,
    zoomed,
)

__all__ = [
    "LEAST_PIXELS",
    "NAMES",
    "Box",
    "Change",
    "Region",
    "change_map",
    "changed_regions",
    "colour_names",
    "colour_of",
    "difference_view",
    "dominant_colours",
    "histogram_view",
    "measure_change",
    "measure_mask",
    "measure_tones",
    "regions_of",
    "scaled_to",
    "side_by_side",
    "view_budget",
    "visible",
    "zoomed",
]
