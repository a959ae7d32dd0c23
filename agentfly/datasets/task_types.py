"""One vocabulary of task types, so that tables of different data sets can be compared.

A data set's own name for a type is mapped to ours; one that is not listed keeps its name, in lower case with `_`. The
data set's own name stays in `metadata["original_task_type"]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

# Ours, and what GEdit-Bench, EMU-Edit, HumanEdit, OmniEdit, PIE-Bench++ and ImgEdit call it.
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
    """Our name for a data set's task type; "edit" for none.

    Numbers around a name, as in PIE-Bench++'s "3_delete_object_80", are no part of it.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = re.sub(r"^\d+_|_\d+$", "", plain)
    plain = re.sub(r"_\d+$", "", plain)
    return _TO_OURS.get(plain, plain) or "edit"
