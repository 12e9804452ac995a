import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageFile

from act_ray.data import decoding
from act_ray.data.decoding import BadImage, decode, probe


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_and_arrays_keep_every_pixel(kind: str) -> None:
    pixels = noise(8, 8, 3)
    out = decode(encode(Image.fromarray(pixels), kind), 8, 3)
    np.testing.assert_array_equal(out, pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(decode(pixels, 8, 3), out)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous


def test_greyscale() -> None:
    pixels = noise(8, 8)
    raw = encode(Image.fromarray(pixels))
    np.testing.assert_array_equal(decode(raw, 8, 1)[0], pixels)
    np.testing.assert_array_equal(decode(pixels, 8, 1)[0], pixels)
    np.testing.assert_array_equal(decode(pixels[..., None], 8, 3), np.stack([pixels] * 3))
    assert probe(raw) == (8, 8, 1)
    assert probe(noise(4, 6, 3)) == (4, 6, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for wide in (grey.astype(np.uint16) * 257, grey.astype(np.uint16) * 256):
        np.testing.assert_array_equal(decode(encode(Image.fromarray(wide), kind), 16, 1)[0], grey)


def test_sixteen_bit_colour_is_scaled() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = noise(8, 8, 3)
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(raw, 8, 3), pixels.transpose(2, 0, 1))


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert decode(encode(red, "TIFF"), 8, 3)[:, 0, 0].tolist() == [255, 0, 0]
    from_jpeg = decode(encode(red, "JPEG", quality=95), 8, 3)[:, 0, 0].astype(int)
    assert abs(from_jpeg - [255, 0, 0]).max() < 8


def test_palette_and_transparency_are_laid_on_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode(encode(palette), 8, 3)[:, 0, 0].tolist() == [10, 20, 30]
    assert decode(encode(palette, transparency=1), 8, 3)[:, 0, 0].tolist() == [255, 255, 255]
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert decode(encode(half), 8, 3)[:, 0, 0].tolist() == [127, 127, 127]
    assert decode(np.asarray(half), 8, 1)[0, 0, 0] == 127
    assert decode(encode(Image.new("LA", (8, 8), (9, 0))), 8, 1)[0, 0, 0] == 255


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "white")]
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode(raw, 8, 3).min() == 255


def test_exif_orientation_is_applied() -> None:
    pixels = noise(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    out = decode(encode(Image.fromarray(pixels), exif=exif.tobytes()), 8, 3)
    np.testing.assert_array_equal(out, np.rot90(pixels, -1).transpose(2, 0, 1))
    assert probe(encode(Image.fromarray(noise(4, 6, 3)), exif=exif.tobytes()))[:2] == (6, 4)


def test_another_size_is_cropped_at_the_centre_and_resized() -> None:
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 200
    assert (decode(encode(Image.fromarray(wide)), 4, 3) == 200).all()
    pixels = noise(16, 16, 3)
    expected = Image.fromarray(pixels).resize((8, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(decode(pixels, 8, 3), np.asarray(expected).transpose(2, 0, 1))
    with pytest.raises(BadImage, match="8x16 where 8x8 is expected"):
        decode(encode(Image.fromarray(wide)), 8, 3, resize=False)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    raw = encode(Image.fromarray(noise(32, 32, 3)), kind)
    for keep in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(BadImage):
            decode(raw[: int(keep * len(raw))], 32, 3)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>404</html>", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image"),
        (noise(0, 8, 3), "pixels, outside"),
        (noise(8, 8, 2), "not an image"),
        (np.zeros((8, 8, 3), dtype=np.float32), "not an image"),
        (encode(Image.fromarray(np.zeros((8, 8), dtype=np.float32)), "TIFF"), "32-bit"),
        (BadImage("refused by its reader"), "refused by its reader"),
    ],
)
def test_what_is_no_image_is_refused(raw: bytes | np.ndarray | BadImage, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(raw, 8, 3)


def bomb(side: int) -> bytes:
    """A PNG whose header claims side x side pixels."""
    raw = bytearray(encode(Image.new("1", (8, 8))))
    raw[16:24] = struct.pack(">II", side, side)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw)


@pytest.mark.parametrize(("side", "reason"), [(9_000, "outside 1 to"), (50_000, "bomb"), (4_000, "would grow")])
def test_a_bomb_is_refused_by_its_header(side: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bomb(side)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded a bomb"))
    with pytest.raises(BadImage, match=reason):
        decode(raw, 8, 3)


def test_too_many_encoded_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", 100)
    with pytest.raises(BadImage, match="over the cap of 100"):
        decode(bytes(101), 8, 3)


def test_a_plain_image_of_one_colour_is_no_bomb() -> None:
    assert decode(encode(Image.new("RGB", (1024, 1024))), 8, 3).max() == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_never_escapes() -> None:
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        raw = encode(Image.fromarray(noise(16, 16, 3)), kind)
        for _ in range(40):
            torn = bytearray(raw)
            for place in rng.integers(0, len(raw), 4):
                torn[place] = rng.integers(0, 256)
            with suppress(BadImage):  # anything else fails the test
                assert decode(bytes(torn), 16, 3).shape == (3, 16, 16)
