"""The icons: what names tell, how they are drawn, and the data set of a small package."""

import numpy as np
import pytest
from PIL import Image

from randar_hf.training.data.reading import load_rows
from randar_hf.training.icons import data
from randar_hf.training.icons.drawing import draw, place, style_of
from randar_hf.training.icons.names import (
    FAMILIES,
    HELD_OUT_FAMILIES,
    LICENSES,
    OBJECTS,
    class_names,
    family_of,
    is_taken,
    read_name,
)


HEART = "M12 21C5 15 2 11 2 8a5 5 0 0 1 10-2 5 5 0 0 1 10 2c0 3-3 7-10 13z"
SOLID = f'<path fill="currentColor" d="{HEART}"/>'
OUTLINE = f'<path fill="none" stroke="currentColor" stroke-width="2" d="{HEART}"/>'
BAR = '<path fill="currentColor" d="M3 3h9v18H3z"/>'
MIT = {"name": "A set", "author": {"name": "Somebody"}, "license": {"title": "MIT", "spdx": "MIT"}}


@pytest.mark.parametrize(
    ("name", "told"),
    {
        "heart": ("heart", None),
        "outline-favorite-rounded": ("heart", "outline"),
        "bell-24-filled": ("bell", "solid"),
        "search2": ("search", None),
        "house-fill": ("home", "solid"),
        "map-pin": ("pin", None),
    }.items(),
)
def test_names_tell_object_and_style(name, told):
    found = read_name(name)
    assert (found.object, found.style) == told


@pytest.mark.parametrize(
    "name", ["heart-off", "bell-plus", "letter-f", "facebook", "duotone-heart", "heart-fill-line"]
)
def test_other_things_and_two_styles_are_left_out(name):
    assert read_name(name) is None


def test_every_name_belongs_to_one_object():
    names = [name for synonyms in OBJECTS.values() for name in synonyms]
    assert len(names) == len(set(names)) and len(OBJECTS) >= 40
    assert len(class_names()) == len(set(class_names())) == 2 * len(OBJECTS)
    for kind, synonyms in OBJECTS.items():
        assert {read_name(name).object for name in synonyms} == {kind}


def test_a_held_out_family_is_whole():
    members = [member for family in FAMILIES.values() for member in family]
    assert len(members) == len(set(members))
    assert len(set(HELD_OUT_FAMILIES)) == 10 and not set(HELD_OUT_FAMILIES) & (set(members) - set(FAMILIES))
    assert family_of("famicons") == family_of("ion") and family_of("tabler") == "tabler"


@pytest.mark.parametrize("license", ["GPL-2.0-only", "CC-BY-4.0", "CC-BY-NC-4.0", "OFL-1.1", "MPL-2.0", None])
def test_licences_that_ask_for_more_are_refused(license):
    assert is_taken("a-set", MIT) and license not in LICENSES
    assert not is_taken("a-set", {**MIT, "license": {"spdx": license}})


def test_brands_and_colours_are_refused():
    assert not is_taken("a-set", {**MIT, "category": "Logos"})
    assert not is_taken("a-set", {**MIT, "palette": True})


def icon(body: str, **view) -> dict:
    return {"body": body, "left": 0, "top": 0, "width": 24, "height": 24, **view}


def test_ink_is_cut_and_scaled():
    ink = draw(icon(BAR))
    assert ink.size == (48, 96) and np.asarray(ink).min() == 255
    assert draw(icon(BAR, width=48)).size == (24, 48)  # of a view twice as wide


@pytest.mark.parametrize("body", ["", "<animate/>" + SOLID, '<g opacity=".4">' + SOLID + "</g>", "<path", "<text/>"])
def test_what_is_empty_moves_or_has_two_tones_is_not_drawn(body):
    assert draw(icon(body)) is None


def test_the_style_is_seen():
    assert style_of(draw(icon(SOLID))) == "solid" and style_of(draw(icon(OUTLINE))) == "outline"


def test_icons_lie_in_the_middle():
    pixels = np.asarray(place(draw(icon(BAR)), 32).convert("L"))
    rows, columns = (np.flatnonzero(pixels.max(axis) > 127) for axis in (1, 0))
    assert (rows[0], rows[-1]) == (1, 30) and (columns[0], columns[-1]) == (8, 22)  # 30 of 32, and half as wide
    moved = np.asarray(place(draw(icon(BAR)), 32, shift=(1, -1)).convert("L"))
    assert np.array_equal(moved, np.roll(pixels, (-1, 1), (0, 1)))


def test_data_set(icon_package, tmp_path):
    config = data.IconDataConfig(source=str(icon_package), output_dir=str(tmp_path / "icons"), renderings=3)
    folder = data.write_icons(config)
    train, validation = (load_rows(str(folder), split) for split in ("train", "validation"))
    names = train.features["label"].names
    assert names == class_names()
    rows = sorted(zip(train["icon"], (names[label] for label in train["label"]), strict=True))
    assert rows == 3 * [("tabler:bookmark-fill", "bookmark")] + 3 * [("tabler:heart", "heart")] + 3 * [
        ("tabler:heart-outline", "heart outline")
    ]
    assert sorted(validation["icon"][:]) == ["eva:bell-outline", "eva:heart-outline"]  # the heart is a training one
    hearts = {row["image"].tobytes() for row in train if row["icon"] == "tabler:heart"}
    assert len(hearts) == 3 and {image.size for image in train["image"]} == {(32, 32)}
    card = (folder / "README.md").read_text()
    assert "| A set (`eva`) | Somebody | MIT | 0 | 2 |" in card and "gpl" not in card and "`ph`" not in card
    assert Image.open(folder.with_name(f"{folder.name}-sheet.png")).height > 32 * len(names)
    again = data.write_icons(
        data.IconDataConfig(source=str(icon_package), output_dir=str(tmp_path / "two"), renderings=3)
    )
    assert (again / "train.parquet").read_bytes() == (folder / "train.parquet").read_bytes()
    with pytest.raises(ValueError, match="`output_dir` must be a new or empty folder, got"):
        data.write_icons(config)


def test_a_folder_that_is_no_package_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`source` must be the folder of an unpacked @iconify/json, got"):
        data.write_icons(data.IconDataConfig(source=str(tmp_path), output_dir=str(tmp_path / "icons")))
    with pytest.raises(ValueError, match="`renderings` must be above 0, got 0"):
        data.IconDataConfig(source=".", output_dir="icons", renderings=0)
    assert not (tmp_path / "icons").exists()


def test_the_sheet_has_a_line_for_each_name():
    image = Image.new("RGB", (32, 32), "white")
    sheet = data.contact_sheet({"one": [image], "two": 3 * [image]}, columns=2)
    bright = np.asarray(sheet.convert("L"))[:, 120:] == 255
    assert [int(bright[line : line + 36].sum()) for line in (0, 36)] == [32 * 32, 2 * 32 * 32]
