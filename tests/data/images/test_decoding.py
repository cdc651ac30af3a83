"""Decoding and finding image files, against numpy, torch's own resize and closed forms."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from effbench.data.folder_files import printable, subfolders, walk
from effbench.data.images.decoding import decode, decode_many
from effbench.data.images.image_files import IMAGES, find_images
from effbench.data.images.modality import Images
from effbench.data.images.opening import ImageError
from effbench.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
ORIENTATION = 0x0112


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray[Any, Any]:
    """A photo-like uint8 (H, W, C): a few random colours, interpolated."""
    small = torch.from_numpy(RNG.uniform(0, 255, (1, channels, 4, 5)))
    return (
        torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
        .clamp(0, 255)[0]
        .byte()
        .permute(1, 2, 0)
        .numpy()
    )


def chw(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def save(path: Path, array: np.ndarray[Any, Any], mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def encoded(kind: str, array: np.ndarray[Any, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def as_pillow_sees(path: Path) -> tuple[str, int]:
    """(mode, number of frames): that a test's file is what the test is about."""
    with Image.open(path) as image:
        return image.mode, getattr(image, "n_frames", 1)


def attempt(path: Path, size: int | None, max_pixels: int = 1_000_000) -> Tensor | ImageError:
    try:
        return decode(path, size, max_pixels=max_pixels)
    except ImageError as error:
        return error


def levels_off(got: Tensor, expected: Tensor) -> int:
    assert got.shape == expected.shape
    assert got.dtype == torch.uint8
    return int((got.int() - expected.int()).abs().max())


def gray_as_rgb(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.uint8)).expand(3, -1, -1)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


# --- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "PNG", "TIFF"])
def test_lossless_files_keep_every_pixel_at_their_own_size(tmp_path: Path, suffix: str) -> None:
    array = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert torch.equal(decode(save(tmp_path / f"a.{suffix}", array), size=None), chw(array))


@pytest.mark.parametrize(("side", "size"), [(64, 24), (24, 64), (33, 17), (50, 1), (1, 9), (2, 2)])
def test_a_square_is_resized_as_torchs_antialiased_bilinear_does(tmp_path: Path, side: int, size: int) -> None:
    array = RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = chw(array)[None].double()
    expected = torch.nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=True)[0].round()
    assert levels_off(decode(save(tmp_path / "a.png", array), size), expected) <= 1


@pytest.mark.parametrize(("height", "width"), [(80, 120), (120, 80), (40, 160), (160, 40)])
def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path: Path, height: int, width: int) -> None:
    array = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = tv.center_crop(tv.resize(chw(array), [20], antialias=True), [20, 20])
    assert levels_off(decode(save(tmp_path / "a.png", array), 20), expected) <= 1


@pytest.mark.parametrize("size", [64, 149, 150, 299, 300, 301])
def test_jpeg_draft_decoding_is_within_half_a_level_on_average(tmp_path: Path, size: int) -> None:
    noisy = smooth(1200, 1200) + RNG.integers(-20, 21, (1200, 1200, 3))
    path = save(tmp_path / "a.jpg", noisy.clip(0, 255).astype(np.uint8), quality=95)
    with Image.open(path) as image:
        expected = tv.resize(chw(np.asarray(image)), [size, size], antialias=True)
    got = decode(path, size)
    assert levels_off(got, expected) <= 6
    assert (got.float() - expected.float()).abs().mean() <= 0.55


@pytest.mark.row(33)
def test_1x1_becomes_a_constant_square(tmp_path: Path) -> None:
    path = save(tmp_path / "dot.png", np.array([[[10, 20, 30]]], np.uint8))
    assert torch.equal(decode(path, 8), torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 8, 8))


@pytest.mark.row(33)
@pytest.mark.parametrize(("width", "height"), [(1, 10_000), (10_000, 1), (101, 1)])
def test_sides_beyond_100_to_1_are_refused_naming_file_and_limit(tmp_path: Path, width: int, height: int) -> None:
    path = save(tmp_path / "line.png", np.zeros((height, width, 3), np.uint8))
    with pytest.raises(
        ImageError, match=rf"line\.png has {width} x {height} pixels, beyond the side ratio .* 100 to 1"
    ):
        decode(path, 8)


@pytest.mark.row(33)
def test_sides_of_100_to_1_are_decoded(tmp_path: Path) -> None:
    array = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None], 3, axis=2)
    got = decode(save(tmp_path / "line.png", array), 4)
    assert got.shape == (3, 4, 4)
    assert 48 <= int(got.min()) <= int(got.max()) <= 51  # the central pixel and what bilinear blends into it


@pytest.mark.row(33)
def test_max_pixels_is_the_most_that_is_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))
    assert decode(path, None, max_pixels=200).shape == (3, 10, 20)
    with pytest.raises(ImageError, match=r"a\.png has 20 x 10 = 200 pixels, above the limit max_pixels=199"):
        decode(path, None, max_pixels=199)


@pytest.mark.row(33)
def test_a_bomb_is_refused_from_its_header_naming_file_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"  # its pixels are not even there: decoding them would give another error
    path.write_bytes(png_claiming(60_000, 60_000))
    with pytest.raises(
        ImageError, match=r"bomb\.png has .* 3,600,000,000 pixels, above the limit max_pixels=64,000,000"
    ):
        decode(path, 224)


@pytest.mark.row(33)
def test_png_bomb_within_the_pixel_limit_is_refused_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(100, 100))
    with pytest.raises(ImageError, match=r"bomb\.png is a damaged PNG file"):
        decode(path, 224)


@pytest.mark.row(33)
def test_a_webp_bomb_is_refused(tmp_path: Path) -> None:
    whole = bytearray(
        encoded("WEBP", np.zeros((8, 8, 3), np.uint8), exif=Image.Exif(), lossless=True, icc_profile=b"x" * 8)
    )
    assert whole[12:16] == b"VP8X"
    whole[24:30] = (16_000 - 1).to_bytes(3, "little") * 2
    path = tmp_path / "bomb.webp"
    path.write_bytes(whole)
    with pytest.raises(ImageError, match=r"bomb\.webp"):
        decode(path, 224)


# --- modes ----------------------------------------------------------------------------------------------------


@pytest.mark.row(32)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_gray_files_get_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    array = np.full((6, 9), 120, np.uint8)
    assert levels_off(decode(save(tmp_path / f"a.{suffix}", array), None), gray_as_rgb(array)) <= 1


@pytest.mark.row(32)
def test_16_bit_gray_is_scaled_over_its_whole_range_not_clipped(tmp_path: Path) -> None:
    array = np.array([[0, 128, 129, 257, 1000], [32768, 40000, 65000, 65406, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1, 4], [128, 156, 253, 254, 255]])  # round(value / 257)
    for name in ("a.png", "a.tif"):
        path = save(tmp_path / name, array)
        assert as_pillow_sees(path)[0] == "I;16"
        assert torch.equal(decode(path, None), gray_as_rgb(expected))


@pytest.mark.row(32)
def test_32_bit_integers_are_read_as_16_bit_values(tmp_path: Path) -> None:
    array = np.array([[0, 257, 65535]], np.int32)
    assert torch.equal(decode(save(tmp_path / "a.tif", array), None), gray_as_rgb(np.array([[0, 1, 255]])))


@pytest.mark.row(32)
def test_floats_are_read_as_0_to_1(tmp_path: Path) -> None:
    array = np.array([[0.0, 0.5, 0.25, 1.0]], np.float32)
    assert torch.equal(decode(save(tmp_path / "a.tif", array), None), gray_as_rgb(np.array([[0, 128, 64, 255]])))


@pytest.mark.row(32)
@pytest.mark.parametrize("worst", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_floats_outside_0_to_1_are_refused_not_guessed(tmp_path: Path, worst: float) -> None:
    path = save(tmp_path / "a.tif", np.array([[0.5, worst]], np.float32))
    with pytest.raises(ImageError, match=r"a\.tif has gray values from .* outside \[0, 1\]"):
        decode(path, None)


@pytest.mark.row(32)
def test_integers_outside_16_bits_are_refused_not_clipped(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.array([[0, 65536]], np.int32))
    with pytest.raises(ImageError, match=r"from 0 to 65536, outside \[0, 65535\]"):
        decode(path, None)


@pytest.mark.row(32)
def test_bilevel_is_black_and_white(tmp_path: Path) -> None:
    bits = RNG.integers(0, 2, (5, 9)).astype(bool)
    path = tmp_path / "a.png"
    Image.fromarray(bits).save(path)
    assert as_pillow_sees(path)[0] == "1"
    assert torch.equal(decode(path, None), gray_as_rgb(bits * 255))


@pytest.mark.row(32)
@pytest.mark.parametrize(
    ("mode", "suffix"), [("LA", "png"), ("RGBA", "png"), ("RGBA", "webp"), ("LA", "tif"), ("RGBA", "tif")]
)
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str, suffix: str) -> None:
    array = RNG.integers(0, 256, (6, 9, len(mode)), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(array, mode=mode).save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    color, alpha = array[..., :-1].astype(float), array[..., -1:] / 255
    over_white = np.rint(color * alpha + 255 * (1 - alpha)).astype(np.uint8)
    assert levels_off(decode(path, None), chw(np.broadcast_to(over_white, (6, 9, 3)))) <= 1


@pytest.mark.row(32)
@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_a_palette_is_looked_up(tmp_path: Path, suffix: str) -> None:
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    index = RNG.permutation(256).reshape(16, 16).astype(np.uint8)
    image = Image.fromarray(index, mode="P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / f"a.{suffix}")
    assert as_pillow_sees(tmp_path / f"a.{suffix}")[0] == "P"
    assert torch.equal(decode(tmp_path / f"a.{suffix}", None), chw(palette[index]))


@pytest.mark.row(32)
@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_a_palettes_transparency_is_laid_over_white(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([100, 0, 0, 0, 100, 0, 0, 0, 100])
    image.save(tmp_path / "a.png", transparency=transparency)
    got = decode(tmp_path / "a.png", None)
    assert got[:, 0, 0].tolist() == [255, 255, 255]
    assert got[:, 0, 1].tolist() == ([0, 100, 0] if transparency == 0 else [127, 177, 127])
    assert got[:, 0, 2].tolist() == [0, 0, 100]


@pytest.mark.row(32)
def test_palette_with_alpha_channel_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    image.putpalette([100, 0, 0, 0, 100, 0])
    image = image.convert("PA")
    image.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    image.save(tmp_path / "a.tif")
    assert as_pillow_sees(tmp_path / "a.tif")[0] == "PA"
    got = decode(tmp_path / "a.tif", None)
    assert got[:, 0].T.tolist() == [[255, 255, 255], [0, 100, 0]]


@pytest.mark.row(32)
@pytest.mark.parametrize(("suffix", "tolerance"), [("tif", 1), ("jpg", 3)])
def test_cmyk_is_turned_into_rgb(tmp_path: Path, suffix: str, tolerance: int) -> None:
    array = np.empty((16, 16, 4), np.uint8)
    array[:] = (200, 100, 50, 30)
    Image.fromarray(array, mode="CMYK").save(tmp_path / f"a.{suffix}")
    expected = np.rint((255 - array[..., :3].astype(float)) * (255 - 30) / 255).astype(np.uint8)
    assert levels_off(decode(tmp_path / f"a.{suffix}", None), chw(expected)) <= tolerance


@pytest.mark.row(32)
def test_one_channel_is_the_luma(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    expected = np.rint(array @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]
    assert levels_off(decode(save(tmp_path / "a.png", array), None, channels=1), chw(expected)) <= 1


@pytest.mark.row(32)
def test_one_channel_of_a_gray_file_is_the_file_itself(tmp_path: Path) -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert torch.equal(decode(save(tmp_path / "a.png", array), None, channels=1), torch.from_numpy(array)[None])


def test_two_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channels must be 1 \(gray\) or 3 \(RGB\); got 2\. Give arrays"):
        decode(save(tmp_path / "a.png", np.zeros((2, 2), np.uint8)), None, channels=2)


@pytest.mark.parametrize(("channels", "order"), [(1, "L"), (2, None), (3, "RGB")])
def test_an_export_says_of_files_only_what_can_be_read(channels: int, order: str | None) -> None:
    steps = Images.blank((channels, 4, 4)).export_facts()["preprocessing"]
    assert (steps and steps["colour_order"]) == order


def test_an_export_says_nothing_of_files_for_oblong_images() -> None:
    assert Images.blank((3, 4, 6)).export_facts()["preprocessing"] is None


# --- orientation and frames -----------------------------------------------------------------------------------

# what must be done to the stored (H, W) rows to see the picture upright, from the EXIF specification
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.row(32)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    array = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{suffix}", array, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert torch.equal(decode(path, None), chw(UPRIGHT[orientation](array)))


@pytest.mark.row(32)
def test_a_turned_photo_is_upright_after_resizing_too(tmp_path: Path) -> None:
    top_red = np.zeros((400, 300, 3), np.uint8)
    top_red[:200, :, 0] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored on its side, as a phone does
    got = decode(save(tmp_path / "a.jpg", np.ascontiguousarray(np.rot90(top_red, 1)), exif=exif), 16)
    assert int(got[0, :7].min()) > 240
    assert int(got[0, 9:].max()) < 15


@pytest.mark.row(31)
def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for number, junk in enumerate(
        [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"MM\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff"]
    ):
        path = save(tmp_path / f"{number}.webp", array, exif=junk, lossless=True)
        assert torch.equal(decode(path, None), chw(array))


@pytest.mark.row(32)
@pytest.mark.parametrize(
    ("kind", "name"), [("GIF", "a.gif"), ("WEBP", "a.webp"), ("PNG", "a.png"), ("PNG", "a.webp"), ("TIFF", "a.tif")]
)
def test_the_first_frame_of_an_animation_is_decoded(tmp_path: Path, kind: str, name: str) -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    first, *rest = [Image.new("RGB", (8, 8), color) for color in colors]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    first.save(tmp_path / name, kind, save_all=True, append_images=rest, **options)
    assert as_pillow_sees(tmp_path / name)[1] == 3
    got = decode(tmp_path / name, 4)
    assert torch.equal(got, torch.tensor([200, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 4, 4))


@pytest.mark.row(32)
def test_a_two_picture_jpeg_gives_its_first(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 200, 0))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert int(decode(tmp_path / "a.jpg", None)[0].min()) > 190


# --- damage ---------------------------------------------------------------------------------------------------

WHOLE = {
    "JPEG": encoded("JPEG", smooth(40, 50)),
    "progressive": encoded("JPEG", smooth(40, 50), progressive=True),
    "PNG": encoded("PNG", smooth(40, 50)),
    "WEBP": encoded("WEBP", smooth(40, 50)),
    "BMP": encoded("BMP", smooth(40, 50)),
    "GIF": encoded("GIF", smooth(40, 50)),
}


@pytest.mark.row(31)
@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_cut_anywhere_is_named_or_still_holds_every_pixel(tmp_path: Path, kind: str) -> None:
    whole, path = WHOLE[kind], tmp_path / "cut.img"
    path.write_bytes(whole)
    pixels = decode(path, None)
    cuts = [
        *range(1, 40),
        *(round(len(whole) * share / 40) for share in range(1, 40)),
        *range(len(whole) - 20, len(whole)),
    ]
    named = 0
    for cut in cuts:
        path.write_bytes(whole[:cut])
        result = attempt(path, None)
        if isinstance(result, ImageError):
            assert str(path) in str(result)
            assert result.path == path
            named += 1
        else:
            assert torch.equal(result, pixels), f"cut at {cut} of {len(whole)}"
    assert named >= len(cuts) - 20  # only the closing bytes may be missing unnoticed


@pytest.mark.slow
@pytest.mark.row(31)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), min_size=1, max_size=8),
)
def test_corrupt_bytes_give_pixels_or_an_image_error(tmp_path: Path, kind: str, flips: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE[kind])
    for where, mask in flips:
        content[where % len(content)] ^= mask
    path = tmp_path / "altered.img"
    path.write_bytes(content)
    result = attempt(path, 8)
    if isinstance(result, ImageError):
        assert "altered.img" in str(result)
    else:
        assert result.shape == (3, 8, 8)


@pytest.mark.row(31)
def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "none.jpg").touch()
    with pytest.raises(ImageError, match=r"none\.jpg is empty \(0 bytes\)"):
        decode(tmp_path / "none.jpg", 8)


@pytest.mark.row(31)
@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"hello", b"\0" * 100, b"P3 2 2 255 1 2 3 4 5 6 7", b"8BPS\0\1"]
)
def test_a_file_that_is_no_image_is_named_with_its_first_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"fake\.jpg is not an image \(JPEG, PNG") as caught:
        decode(path, 8)
    assert repr(content[:16]) in str(caught.value)


@pytest.mark.row(31)
def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded("PNG", array))
    assert torch.equal(decode(path, None), chw(array))


@pytest.mark.row(31)
def test_unreadable_path_is_named_and_not_reported_as_corrupt(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    for name in ("missing.jpg", "pipe.jpg", "self.jpg", "x" * 300 + ".jpg", "."):
        with pytest.raises(DataError) as caught:
            decode(tmp_path / name, 8)
        assert printable(tmp_path / name) in str(caught.value)


# --- many -----------------------------------------------------------------------------------------------------


@pytest.mark.row(31)
def test_decode_many_keeps_order_with_errors_in_place(tmp_path: Path) -> None:
    paths = []
    for number in range(150):
        paths.append(tmp_path / f"{number}.png")
        if number % 7 == 3:
            paths[-1].write_bytes(b"no")
        else:
            save(paths[-1], np.full((3, 3, 3), number, np.uint8))
    for number, result in enumerate(decode_many(paths, 2)):
        if number % 7 == 3:
            assert isinstance(result, ImageError)
            assert result.path == paths[number]
        else:
            assert isinstance(result, Tensor)
            assert torch.equal(result, torch.full((3, 2, 2), number, dtype=torch.uint8))
    assert number == 149


# --- finding --------------------------------------------------------------------------------------------------


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_find_images_keeps_order_and_expands_folders_sorted(tmp_path: Path) -> None:
    wanted = [tmp_path / name for name in ("a.JPG", "b/c.jpeg", "b/d/e.WebP", "z.bmp")]
    touch(*wanted, tmp_path / "notes.txt", tmp_path / "b/._c.jpeg", tmp_path / ".git/x.png", tmp_path / "Thumbs.db")
    last, first = wanted[3], wanted[0]
    assert find_images([tmp_path]) == sorted(wanted, key=str)
    assert find_images([str(last), first, tmp_path / "b", last]) == [last, first, wanted[1], wanted[2], last]


def test_a_file_named_outright_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "photo")
    assert find_images([tmp_path / "photo"]) == [tmp_path / "photo"]


def test_paths_without_an_image_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="holds no image file"):
        find_images([tmp_path])
    with pytest.raises(DataError, match=r"absent\.jpg does not exist"):
        find_images([tmp_path / "absent.jpg"])
    with pytest.raises(DataError, match="No image was named"):
        find_images([])


@pytest.mark.row(37)
def test_links_in_circles_end(tmp_path: Path) -> None:
    touch(tmp_path / "set/a/1.jpg", tmp_path / "other/2.jpg")
    (tmp_path / "set/a/up").symlink_to(tmp_path)  # would bring in other/2.jpg
    (tmp_path / "set/a/here").symlink_to(".")
    (tmp_path / "set/ping").symlink_to(tmp_path / "set/a")
    (tmp_path / "set/self").symlink_to("self")
    assert [path.name for path in find_images([tmp_path / "set"])] == ["1.jpg"]


@pytest.mark.row(37)
def test_a_linked_folder_is_followed_and_a_broken_link_is_listed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/1.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert walk(tmp_path / "set", IMAGES)[0] == [tmp_path / "set/gone.jpg", tmp_path / "set/linked/1.jpg"]


@pytest.mark.row(37)
@pytest.mark.parametrize("when", ["set", "set/b"], ids=["after its name was listed", "before it is listed"])
def test_a_folder_that_vanishes_meanwhile_is_left_out(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "set/a/1.jpg")
    (tmp_path / "set/b").mkdir()
    real = os.scandir

    def listing(folder: Path) -> Any:
        if folder != tmp_path / when:
            return real(folder)
        found = list(real(folder))
        (tmp_path / "set/b").rmdir()
        return nullcontext(iter(found)) if when == "set" else real(folder)

    monkeypatch.setattr(os, "scandir", listing)
    assert find_images([tmp_path / "set"]) == [tmp_path / "set/a/1.jpg"]
    assert not (tmp_path / "set/b").exists()


@pytest.mark.row(37)
def test_a_link_to_the_folder_above_is_no_subfolder(tmp_path: Path) -> None:
    touch(tmp_path / "set/a/1.jpg", tmp_path / "set/.hidden/1.jpg")
    (tmp_path / "set/up").symlink_to(tmp_path)
    (tmp_path / "set/here").symlink_to(".")
    assert subfolders(tmp_path / "set") == [tmp_path / "set/a"]


@pytest.mark.row(37)
def test_names_of_any_bytes_are_found_and_decoded(tmp_path: Path) -> None:
    content = encoded("PNG", np.zeros((2, 2, 3), np.uint8))
    names = [b"two words.png", "\N{CAT FACE}.png".encode(), b"latin\xe9.png", b"new\nline.png", b"n" * 251 + b".png"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(content)
    found = find_images([tmp_path])
    assert {os.fsencode(path.name) for path in found} == set(names)
    assert all(isinstance(result, Tensor) for result in decode_many(found, 2))


@pytest.mark.row(37)
def test_a_message_about_a_name_of_any_bytes_can_be_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff\x1b[31m.png"))
    path.touch()
    with pytest.raises(ImageError) as caught:
        decode(path, 2)
    assert str(caught.value).endswith(r"bad\xff\x1b[31m.png is empty (0 bytes).")
    str(caught.value).encode("utf-8")


@pytest.mark.row(37)
@given(st.binary(max_size=12), st.binary(max_size=12))
def test_printable_names_are_printable_and_injective(one: bytes, other: bytes) -> None:
    first, second = os.fsdecode(one), os.fsdecode(other)
    assert printable(first).isprintable()
    assert (printable(first) == printable(second)) == (first == second)


def test_plain_names_stay_as_they_are() -> None:
    assert printable("Hund über 1 Straße \N{DOG FACE}.jpg") == "Hund über 1 Straße \N{DOG FACE}.jpg"
