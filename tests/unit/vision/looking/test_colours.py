"""Names and shares of colours: as people would name them, and adding up."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from agentfly.vision.looking import NAMES, colour_names, colour_of, dominant_colours, visible
from agentfly.vision.shapes import COLOURS

# CSS colour keywords under the terms that people use for them; those on which people disagree are left out.
KEYWORDS = {
    "black": "black",
    "white": "white snow ghostwhite floralwhite ivory whitesmoke mintcream aliceblue seashell",
    "grey": "gainsboro lightgrey silver darkgrey grey dimgrey slategrey",
    "red": "red crimson firebrick darkred maroon indianred",
    "orange": "orange darkorange coral lightsalmon sandybrown",
    "yellow": "yellow gold goldenrod khaki darkkhaki palegoldenrod lemonchiffon lightyellow",
    "green": "green darkgreen forestgreen seagreen mediumseagreen limegreen lime springgreen lawngreen chartreuse "
    "greenyellow yellowgreen olive olivedrab darkolivegreen darkseagreen lightgreen palegreen",
    "cyan": "cyan teal darkcyan lightseagreen cadetblue darkturquoise turquoise paleturquoise lightcyan",
    "blue": "blue navy darkblue mediumblue midnightblue royalblue steelblue dodgerblue deepskyblue cornflowerblue "
    "skyblue lightskyblue lightsteelblue",
    "purple": "purple indigo darkmagenta darkviolet blueviolet darkorchid mediumorchid mediumpurple magenta orchid "
    "violet plum rebeccapurple",
    "pink": "pink lightpink hotpink deeppink palevioletred salmon lightcoral",
    "brown": "saddlebrown sienna chocolate peru darkgoldenrod",
    "beige": "bisque wheat tan burlywood navajowhite moccasin peachpuff papayawhip blanchedalmond antiquewhite",
}


def one(colour: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (4, 3), colour)


@pytest.mark.parametrize(("term", "word"), [(term, word) for term, words in KEYWORDS.items() for word in words.split()])
def test_keywords_have_the_names_that_people_give_them(term: str, word: str) -> None:
    red, green, blue = ImageColor.getrgb(word)[:3]
    assert colour_of(one((red, green, blue)), 0, 0).name == term


@pytest.mark.parametrize("share", [1.0, 0.85, 0.7])
def test_stickers_keep_their_names_when_they_are_paler(share: float) -> None:
    for name, (red, green, blue) in COLOURS.items():
        pale = [round(share * value + (1 - share) * 170) for value in (red, green, blue)]
        assert colour_of(one((pale[0], pale[1], pale[2])), 0, 0).name == name


def test_a_point_has_the_figures_of_its_pixel() -> None:
    image = one((255, 255, 255))
    image.putpixel((2, 1), (255, 0, 0))
    found = colour_of(image, 2, 1)
    # CIE Lab of sRGB red under D65.
    assert (found.name, found.rgb, found.hex, found.lab, found.alpha) == (
        "red",
        (255, 0, 0),
        "#ff0000",
        (53.2, 80.1, 67.2),
        255,
    )
    assert colour_of(image, 1, 2).lab == (100.0, 0.0, 0.0)


def test_a_clear_point_is_seen_on_white() -> None:
    found = colour_of(one((255, 0, 0, 64), "RGBA"), 0, 0)
    assert (found.rgb, found.alpha) == ((255, 191, 191), 64)
    assert colour_of(one((0, 0, 0, 0), "RGBA"), 0, 0).name == "white"


def test_grey_of_sixteen_bits_is_scaled() -> None:
    image = Image.fromarray(np.full((3, 4), 0x8000, np.uint16))
    assert colour_of(image, 0, 0).rgb == (128, 128, 128)


def test_every_grey_is_black_grey_or_white_in_this_order() -> None:
    ramp = Image.linear_gradient("L")
    names = [NAMES[index] for index in colour_names(ramp)[:, 0]]
    assert list(dict.fromkeys(names)) == ["black", "grey", "white"]


def test_shares_are_exact_and_the_largest_is_first() -> None:
    image = Image.new("RGB", (10, 10), COLOURS["blue"])
    image.paste(COLOURS["red"], (0, 0, 10, 3))
    image.paste((250, 250, 250), (0, 3, 5, 4))
    found = [(group.name, group.rgb, group.share) for group in dominant_colours(image)]
    assert found == [("blue", (35, 75, 225), 0.65), ("red", (225, 30, 35), 0.3), ("white", (250, 250, 250), 0.05)]


def test_shades_that_are_near_are_one_colour_with_their_mean() -> None:
    image = Image.new("RGB", (10, 10), (200, 40, 40))
    image.paste((216, 56, 56), (0, 0, 10, 5))
    (group,) = dominant_colours(image)
    assert (group.name, group.rgb, group.share) == ("red", (208, 48, 48), 1.0)
    assert group.hex == "#d03030"


def test_only_visible_pixels_have_a_share() -> None:
    image = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    image.paste((225, 30, 35, 255), (0, 0, 4, 4))
    assert [(group.name, group.share) for group in dominant_colours(image)] == [("red", 1.0)]
    assert visible(image).sum() == 16
    assert dominant_colours(Image.new("RGBA", (3, 3), (0, 0, 0, 0))) == ()


def test_the_colours_of_a_large_image_are_those_of_a_part_of_its_pixels() -> None:
    image = Image.new("RGB", (1500, 1200), COLOURS["blue"])
    image.paste(COLOURS["red"], (0, 0, 1500, 300))
    assert [(group.name, group.share) for group in dominant_colours(image)] == [("blue", 0.75), ("red", 0.25)]


def test_noise_has_a_bounded_number_of_colours() -> None:
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8))
    found = dominant_colours(noise)
    assert 8 < len(found) <= 32
    assert sum(group.share for group in found) == pytest.approx(1, abs=0.02)
