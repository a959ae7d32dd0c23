"""Bring images of any mode to the three that are kept, in sRGB, and compose transparent ones on white.

No other place decides about modes, colour profiles and transparency.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

logger = logging.getLogger(__name__)

MODES = ("L", "RGB", "RGBA")
_WITH_ALPHA = ("LA", "PA", "La", "RGBa")
_TRANSPARENT = "transparency"
# Modes of pixels by the colour space of a profile. A profile of another space belongs to another image.
_SPACES = {"RGB": ("RGB", "RGBA"), "GRAY": ("L", "RGBA"), "CMYK": ("CMYK",)}
_PROFILE_BYTES = 4 * 1024 * 1024  # larger than the profiles of presses; a cache holds them
_SAME = 2  # levels by which versions of sRGB differ


def on_white(image: Image.Image) -> Image.Image:
    """Return an image in RGB, on white where it is transparent."""
    image = normalise(image)
    if image.mode != "RGBA":
        return image if image.mode == "RGB" else image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def without_transparency(image: Image.Image) -> Image.Image:
    """Return an image as it is shown to a model: `on_white` if it is transparent, else in its own mode."""
    return on_white(image) if image.has_transparency_data else image


def normalise(image: Image.Image) -> Image.Image:
    """Return an image in one of the three modes of the store: L (masks, grey), RGB, RGBA.

    A colour that is declared transparent (`tRNS` of PNG) becomes transparent pixels. Greys of more than 8 bits are
    scaled: see `_eight_bits`.
    """
    declared = image.info.get(_TRANSPARENT)
    if image.mode in MODES:
        return image if declared is None or image.mode == "RGBA" else _with_transparent(image, image, declared)
    if image.mode[0] in "IF1":
        grey = image.convert("L") if image.mode == "1" else Image.fromarray(_eight_bits(image))
        return grey if declared is None else _with_transparent(grey, image, declared)
    if image.mode == "P" and not isinstance(declared, (int, bytes, type(None))):
        # Any text of a PNG file may call itself so, and Pillow believes it.
        image, declared = image.copy(), None
        del image.info[_TRANSPARENT]
    return image.convert("RGBA" if declared is not None or image.mode in _WITH_ALPHA else "RGB")


def _with_transparent(made: Image.Image, image: Image.Image, declared: object) -> Image.Image:
    """Return an image with its transparent colour as alpha; unchanged if no pixel has the colour.

    Args:
        made: in L or RGB.
        image: the same, in the mode in which the file has it.
        declared: grey, or red, green and blue; anything else means nothing.
    """
    grey = image.mode != "RGB"
    wanted = [declared] if grey else declared
    if not isinstance(wanted, (list, tuple)) or not all(isinstance(value, int) for value in wanted):
        return made
    if len(wanted) != len(made.getbands()):
        return made
    if not grey and max(wanted) > 255:  # of 16 bits, of which the pixels have the upper half
        wanted = [value >> 8 for value in wanted]
    values = np.asarray(image).reshape(image.height, image.width, -1)
    if image.mode == "1":
        wanted = [bool(wanted[0])]
    hidden = (values == np.asarray(wanted)).all(axis=2)
    if not hidden.any():
        return made
    clear = made.convert("RGB")
    clear.putalpha(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)))
    return clear


def _eight_bits(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the greys of an image of 16 or 32 bits, or of real numbers, in 8 bits.

    In 16 bits white is 65535. The other two do not say what white is, so their largest value decides: white is 255 up
    to 255, 65535 up to 65535, and above that the largest value. Real numbers up to 1 have white at 1; they may exceed
    1, 255 and 65535 up to twofold, as filters leave them, and are cut there. What is not a number is black.
    """
    if image.mode != "F":
        whole = np.asarray(image.convert("I")).clip(0, None)
        largest = int(whole.max(initial=0))
        if image.mode == "I" and (largest <= 255 or largest > 65535):
            return (whole * (255 / max(255, largest))).astype(np.uint8)
        return (whole >> 8).clip(0, 255).astype(np.uint8)
    values = np.nan_to_num(np.asarray(image), nan=0.0, posinf=np.inf, neginf=0.0).clip(0, None)
    top = float(values.max(initial=0, where=np.isfinite(values)))
    white = next((white for white in (1.0, 255.0, 65535.0) if top <= 2 * white), top)
    return np.round(values.clip(None, white).astype(np.float64) * (255 / white)).astype(np.uint8)


def in_srgb(image: Image.Image) -> Image.Image:
    """Return a normalised image with its colours in sRGB, converted from the profile that it carries.

    A profile that cannot be read, or is of another kind of image, is ignored: the pixels stay as they are.
    """
    profile = b"" if image.mode == "LAB" else image.info.get("icc_profile")
    out = image if image.mode in ("CMYK", "LAB") else normalise(image)
    if isinstance(profile, bytes) and (profile or image.mode == "LAB"):
        try:
            out = _converted(out, profile)
        except Exception as fault:  # broken metadata is no reason to refuse good pixels
            logger.debug("colour profile not used: %s", fault)
    return normalise(out)


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    if len(profile) > _PROFILE_BYTES:
        return image
    space, transform = _transform(profile, image.mode)
    if transform is None:
        return image
    if space != "GRAY":
        return transform.apply(image)
    made = transform.apply(image.getchannel(0)).getchannel(0)
    return made if image.mode == "L" else Image.merge("RGBA", (made, made, made, image.getchannel("A")))


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> tuple[str, ImageCmsTransform | None]:
    """Return the colour space of a profile, and its conversion to sRGB; None where that changes nothing.

    Args:
        profile: an ICC profile; empty for Lab.
        mode: of the pixels: L, RGB, RGBA, CMYK or LAB.
    """
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(BytesIO(profile) if profile else ImageCms.createProfile("LAB"))
    space = source.profile.xcolor_space.strip()
    if profile and mode not in _SPACES.get(space, ()):
        return space, None
    given, made = ("L" if space == "GRAY" else mode), ("RGBA" if space == "RGB" and mode == "RGBA" else "RGB")
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        given,
        made,
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if space == "RGB":
        # Nearly all profiles are sRGB: its pixels stay exactly as they are, and cost no time.
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        before = Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(9, 81, 3)).convert(mode)
        after = transform.apply(before)
        if np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16)).max() <= _SAME:
            return space, None
    return space, transform
