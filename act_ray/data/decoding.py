"""One image from anywhere, bytes or pixels, to uint8 [C, H, W].

What is done, in this order: the caps are checked on the header, before a pixel is decoded; an animation gives its
first frame; EXIF orientation is applied; 16 bits become 8 by their high byte (the inverse of both v*257 and v*256, and
what Pillow does for 16-bit colour); transparency is laid on white (hidden colours under alpha 0 are often garbage);
CMYK, palettes and grey become RGB, or ITU-R 601 luma for one channel; a size that differs is cropped to a square, at
the centre unless told otherwise, and resized with Pillow's LANCZOS, which is antialiased, as the StyleGAN and EDM
dataset tools do.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # not EPS and the like: those run other programs
MAX_BYTES = 64 << 20  # encoded, one image
MAX_PIXELS = 1 << 26  # decoded, one image; below Pillow's own limit
MAX_RATIO = 500  # decoded bytes per encoded byte, asked only of images above RATIO_FLOOR
RATIO_FLOOR = 4 << 20  # decoded bytes; a small image of one colour compresses as well as a bomb, and harms nobody

Pixels = NDArray[np.uint8]


class BadImage(Exception):
    """An image that goes to the quarantine list; `reason` is one line without its name."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)


Raw = bytes | Pixels | BadImage  # a reader that refuses an image hands on the refusal in its place


def decode(raw: Raw, size: int, channels: int, resize: bool = True, at: float | None = None) -> Pixels:
    """Decode to uint8 [channels, size, size], contiguous.

    raw: an encoded file, or uint8 pixels [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]. at: where along the longer side the
    square is cropped, 0 to 1; None: at the centre. Raises BadImage when it cannot be decoded, is over a cap, or, with
    resize=False, has another size.
    """
    if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and raw.shape == (size, size, channels):
        return np.ascontiguousarray(raw.transpose(2, 0, 1))
    image = _load(raw)
    if image.size != (size, size) and not resize:
        raise BadImage(f"{image.height}x{image.width} where {size}x{size} is expected (--size crops and resizes)")
    image = _flatten(image, channels)
    if image.size != (size, size):
        side = min(image.size)
        rest = (image.width - side, image.height - side)
        left, top = (n // 2 if at is None else min(n, int((n + 1) * at)) for n in rest)
        image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if channels == 3 else np.array(pixels[None])


def probe(raw: Raw) -> tuple[int, int, int]:
    """Height, width and natural channels (1 for greyscale, else 3) of an image that decodes; raises BadImage."""
    image = _load(raw)
    return image.height, image.width, 1 if image.mode in ("1", "L", "LA", "La") else 3


def _load(raw: Raw) -> Image.Image:
    """The decoded, upright, 8-bit first frame in whatever mode it has."""
    if isinstance(raw, BadImage):
        raise raw
    if isinstance(raw, np.ndarray):
        return _from_array(raw)
    if not raw:
        raise BadImage("zero bytes")
    if len(raw) > MAX_BYTES:
        raise BadImage(f"{len(raw)} encoded bytes, over the cap of {MAX_BYTES}")
    try:
        image: Image.Image = Image.open(io.BytesIO(raw), formats=FORMATS)
        _check_header(image, len(raw))
        image.load()
        kind = image.format
        return _eight_bits(ImageOps.exif_transpose(image), kind)
    except BadImage:
        raise
    except Exception as error:  # Pillow's parsers raise nearly every built-in error on bytes made to break them
        text = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise BadImage(f"cannot be decoded: {text or type(error).__name__}") from error


def _from_array(pixels: Pixels) -> Image.Image:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))):
        raise BadImage(f"{pixels.dtype} pixels of shape {pixels.shape} are not an image")
    if pixels.size == 0 or pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise BadImage(f"{pixels.shape[0]}x{pixels.shape[1]} pixels, outside 1 to {MAX_PIXELS}")
    return Image.fromarray(
        np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    )


def _check_header(image: Image.Image, encoded: int) -> None:
    """Raise BadImage for a decompression bomb, by what the header claims."""
    pixels = image.width * image.height
    if not 0 < pixels <= MAX_PIXELS:
        raise BadImage(f"{image.height}x{image.width} pixels, outside 1 to {MAX_PIXELS}")
    decoded = pixels * len(image.getbands())
    if decoded > RATIO_FLOOR and decoded > MAX_RATIO * encoded:
        raise BadImage(f"{encoded} bytes would grow {decoded // encoded} times, over the cap of {MAX_RATIO}")


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    """Scale 16-bit greyscale to 8 bits; Pillow's own convert("L") would clip it at 255."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM"))
    if sixteen:
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage("32-bit pixels, whose range nothing says")
    return image


def _flatten(image: Image.Image, channels: int) -> Image.Image:
    """Mode L (one channel) or RGB (three), transparency laid on white."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    try:
        return image.convert("L" if channels == 1 else "RGB")
    except ValueError as error:
        raise BadImage(f"cannot be decoded: {error}") from error
