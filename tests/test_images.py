"""Images and masks of every kind become the 8-bit pixels that viewers show."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from randar_hf import images
from randar_hf.images import open_image, read_header, to_ink, to_mask, to_rgb


UPRIGHT = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
# What a camera stores for each orientation, as the rotation or mirroring of what a viewer shows.
STORED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def levels_of(content: bytes, mask: bool = False) -> list:
    return np.asarray(open_image(content, mask)).tolist()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientations_are_applied(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(stored, kind, exif=exif, **options)
    image = Image.open(io.BytesIO(content))
    assert np.array_equal(to_rgb(image), UPRIGHT)
    assert read_header(content) == ("RGB", Image.fromarray(UPRIGHT).size)
    assert np.array_equal(to_mask(image.convert("L")), Image.fromarray(UPRIGHT).convert("L"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    levels = np.array([[0, 255, 256], [32768, 65535, 1285]], dtype=np.uint16)
    expected = [[0, 1, 1], [128, 255, 5]]
    content = encoded(Image.fromarray(levels), kind)
    assert np.asarray(open_image(content))[..., 1].tolist() == expected
    assert levels_of(content, mask=True) == expected
    assert np.asarray(to_mask(Image.fromarray(levels.astype(np.int32)))).tolist() == expected
    for wrong in (-1, 65_536):
        with pytest.raises(ValueError, match=f"pixels go from .*{wrong}"):
            to_rgb(Image.fromarray(np.array([[0, wrong]], dtype=np.int32)))


def test_floating_point_pixels_are_refused():
    for convert in (to_rgb, to_mask):
        with pytest.raises(ValueError, match="floating point numbers, whose range nothing tells"):
            convert(Image.new("F", (2, 2)))
    with pytest.raises(ValueError, match="floating point"):
        open_image(encoded(Image.new("F", (2, 2)), "TIFF"))


def test_transparency_is_white_in_images_and_black_in_masks():
    half = Image.new("RGBA", (2, 1), (200, 100, 0, 255))
    half.putpixel((1, 0), (200, 100, 0, 0))
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 100, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    grey = Image.new("LA", (2, 1), (200, 255))
    grey.putpixel((1, 0), (200, 0))
    for content in (
        encoded(half),
        encoded(half, "WEBP", lossless=True),
        encoded(palette, transparency=1),
        encoded(palette, transparency=bytes([255, 0])),
        encoded(palette, "GIF", transparency=1),
    ):
        assert levels_of(content) == [[[200, 100, 0], [255, 255, 255]]]
        assert levels_of(content, mask=True)[0][1] == 0
    assert levels_of(encoded(grey)) == [[[200] * 3, [255] * 3]] and levels_of(encoded(grey), mask=True) == [[200, 0]]
    assert levels_of(encoded(Image.new("RGB", (1, 1), (5, 6, 7)), transparency=(5, 6, 7))) == [[[255] * 3]]
    deep = Image.fromarray(np.array([[1000, 65535]], dtype=np.uint16))
    assert levels_of(encoded(deep, transparency=65535), mask=True) == [[4, 0]]
    faint = Image.new("RGBA", (1, 1), (0, 0, 0, 51))
    assert levels_of(encoded(faint)) == [[[204] * 3]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "La", "RGBa"])
def test_white_of_every_mode_is_white(mode):
    white = Image.new("L", (2, 2), 255).convert("RGB")
    white = white.convert("LA" if mode == "La" else "RGBA" if mode == "RGBa" else mode).convert(mode)
    assert np.asarray(to_rgb(white)).min() >= 254 and np.asarray(to_mask(white)).min() >= 254


def test_grey_becomes_ink_on_nothing():
    ramp = Image.linear_gradient("L")  # a level per row
    ink = to_ink(ramp)
    alpha = np.asarray(ink.getchannel("A")).astype(int)[:, 0]  # (256,)
    assert ink.mode == "RGBA" and ink.getpixel((0, 99))[:3] == (0, 0, 0)
    assert (alpha[:17] == 0).all() and (alpha[240:] == 255).all() and (np.diff(alpha[16:241]) > 0).all()
    on_black = Image.alpha_composite(Image.new("RGBA", ramp.size, "black"), to_ink(ramp.convert("RGB"), "white"))
    assert np.abs(np.asarray(on_black.convert("L")).astype(int) - np.asarray(ramp)).max() <= 16  # the image again
    coloured = Image.new("RGB", (2, 2), (200, 152, 200))
    assert to_ink(coloured).getpixel((0, 0))[3] > 128
    coloured.putpixel((1, 1), (200, 151, 200))
    with pytest.raises(ValueError, match="`image` must be grey to become transparent, got .* by 49 levels"):
        to_ink(coloured)
    for function in (to_ink, to_rgb, to_mask):
        with pytest.raises(TypeError, match="`image` must be a PIL image, got str"):
            function("icon.png")
    for colour in ("no colour", 3, None):
        with pytest.raises(ValueError, match=f"`colour` must be a colour that Pillow knows.*{colour}"):
            to_ink(ramp, colour)


def test_files_are_read_whatever_their_suffix(tmp_path):
    for index, (kind, name) in enumerate([("PNG", "a"), ("AVIF", "b.jpg"), ("QOI", "c.txt"), ("GIF", "d.[x].png")]):
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (4, 4), (255, 255, 255)), kind))
        assert open_image(tmp_path / name).size == (4, 4) and open_image(str(tmp_path / name)).mode == "RGB", index


def test_limits_are_what_is_still_read(tmp_path, monkeypatch):
    content = encoded(Image.new("RGB", (4, 4)))
    (tmp_path / "a.png").write_bytes(content)
    for name, limit in {"MAX_PIXELS": 16, "MAX_FILE_BYTES": len(content)}.items():
        monkeypatch.setattr(images, name, limit)
        assert open_image(tmp_path / "a.png").size == (4, 4)
        monkeypatch.setattr(images, name, limit - 1)
        with pytest.raises(ValueError, match=f"more than {limit - 1 if name == 'MAX_PIXELS' else '1 GiB'}"):
            open_image(tmp_path / "a.png")
        monkeypatch.undo()


def test_what_cannot_be_read_is_a_value_error_of_one_kind(tmp_path):
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    damaged = {kind: encoded(noise, kind)[:600] for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "AVIF", "BMP")}
    large = encoded(Image.new("1", (8193, 8192)))  # one pixel a row too many
    with pytest.raises(ValueError, match="8193 x 8192 pixels, more than 67108864; scale it down"):
        open_image(large)
    for content in (*damaged.values(), large, b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(ValueError, match="the image cannot be read: "):
            open_image(content)
    (tmp_path / "cut.png").write_bytes(damaged["PNG"])
    for path in (tmp_path / "cut.png", tmp_path):
        with pytest.raises(ValueError, match=f"{path}' cannot be read: "):
            open_image(path)
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "none.png")


def test_images_are_opened_in_one_place():
    root = Path(__file__).parents[1]
    files = [
        file for folder in ("src", "pipelines", "training", "conversion") for file in (root / folder).rglob("*.py")
    ]
    found = {file.relative_to(root).as_posix() for file in files if "Image.open(" in file.read_text()}
    drawn = "training/icons/drawing.py"  # opens what it has drawn
    written = "pipelines/image_tensors.py"  # tells what to write
    assert found == {"src/randar_hf/images.py", drawn, written}
