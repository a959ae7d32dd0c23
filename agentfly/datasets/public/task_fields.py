"""Task types and instructions of public data sets in one form, so that tables of them can be compared.

A data set's own name of a task type is mapped to ours. A name that is not listed stays, in lower case with `_`. The
original name is in `metadata["original_task_type"]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

# Our name, and the names in GEdit-Bench, EMU-Edit, HumanEdit, OmniEdit, PIE-Bench++ and ImgEdit.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "add": ("add", "addition", "subject_add", "add_object"),
    "remove": ("remove", "removal", "subject_remove", "delete_object"),
    "replace": ("replace", "swap", "subject_replace", "object_swap", "change_object"),
    "background": ("background", "background_change", "background_swap", "change_background"),
    "style": ("style", "style_change", "change_style"),
    "colour": ("color", "color_alter", "change_attribute_color"),
    "material": ("material", "material_alter", "change_attribute_material"),
    "attribute": ("attribute", "attribute_modification", "adjust", "change_attribute_content"),
    "action": ("action", "motion_change", "change_attribute_pose"),
    "text": ("text", "text_change"),
    "tone": ("tone", "tone_transfer"),
    "environment": ("env", "environment"),
    "portrait": ("ps_human",),
    "count": ("counting",),
}
_TO_OURS: Mapping[str, str] = MappingProxyType({name: ours for ours, names in _NAMES.items() for name in names})


def stable_task_type(name: str) -> str:
    """Return our name of a data set's task type, "edit" for an empty one.

    Numbers around a name, as in "3_delete_object_80" of PIE-Bench++, do not count.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = re.sub(r"^\d+_|_\d+$", "", plain)
    plain = re.sub(r"_\d+$", "", plain)
    return _TO_OURS.get(plain, plain) or "edit"


def numbered(turns: list[str]) -> str:
    """Return the instructions of several turns as a numbered list, a single one as it is."""
    return turns[0] if len(turns) == 1 else "\n".join(f"{number}. {turn}" for number, turn in enumerate(turns, 1))
