#!/usr/bin/env python3
"""Makes the still images that tests/images decodes, with what Pillow makes of them.

How to run, from any folder (rewrites everything beside this file but the file itself):

    python3 -m venv /tmp/pillow && /tmp/pillow/bin/pip install pillow==12.0.0 numpy
    /tmp/pillow/bin/python tests/golden/images/make_images.py

Written here:

- `files/*`: one small file per format and variety, most written by Pillow, the odd ones byte by byte below.
- `expected/*.png`: Pillow's pixels (`exif_transpose`, then `convert("RGB")`) of the lossy files.
- `index.json`: per file its size, how far pixels may be off (0 = exact, checked by SHA-256), and the lengths to which
  it can be cut so that Pillow refuses it.
- `resize_vectors.json`: SHA-256 of Pillow's bicubic resize of pictures that test and script both compute (`pattern`).

Everything is a function of the code and of Pillow's version: two runs give the same bytes.
"""

import hashlib
import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

assert PIL.__version__ == "12.0.0", f"expected values are Pillow 12.0.0's, this is {PIL.__version__}"

HERE = Path(__file__).parent
FILES, EXPECTED = HERE / "files", HERE / "expected"
W, H = 27, 19
LOSSY = 5

cases = []


def scene(width=W, height=H):
    """A picture with soft gradients, hard edges and saturated colours."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x * 13 + y * 29) % 256], axis=-1)
    rgb[height // 4 : height // 2, width // 4 : width // 2] = (255, 0, 0)
    rgb[height // 2 :, 3 * width // 4 :] = (0, 0, 255)
    rgb[3 * height // 4 :, : width // 4] = (0, 255, 0)
    return rgb.astype(np.uint8)


def scene16(channels):
    """16-bit samples whose low bytes matter if they are not dropped; some are below 256."""
    y, x = np.mgrid[0:H, 0:W]
    planes = [((x * 2411 + y * 3571) * (c + 1) + 77 * c) % 65536 for c in range(channels)]
    samples = np.stack(planes, axis=-1).astype(np.uint16)
    samples[:4] //= 256
    return samples


def alpha():
    y, x = np.mgrid[0:H, 0:W]
    return ((x * 31 + y * 17) % 256).astype(np.uint8)


def add(name, data, tolerance=0, cuts=True):
    """Records a file with Pillow's reading of it."""
    (FILES / name).write_bytes(data)
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    case = {"file": name, "width": image.width, "height": image.height, "tolerance": tolerance}
    if tolerance:
        expected = name.replace(".", "_") + ".png"
        image.save(EXPECTED / expected, optimize=True)
        case["expected"] = expected
    else:
        case["sha256"] = hashlib.sha256(image.tobytes()).hexdigest()
    case["refused_lengths"] = refused_lengths(data) if cuts else []
    cases.append(case)


def refused_lengths(data):
    """Cuts, from a few bytes to all but one, that Pillow refuses."""
    n = len(data)
    cuts = sorted({1, 3, 9, 13, 20, 40, n // 4, n // 2, 3 * n // 4, n - 40, n - 14, n - 5, n - 2, n - 1})
    return [cut for cut in cuts if 0 < cut < n and not pillow_reads(data[:cut])]


def pillow_reads(data):
    try:
        ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    except Exception:
        return False
    return True


def encode(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


# PNG


def png_chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, bits, colour_type, rows, before=b"", after=b"", interlace=0):
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlace)
    body = png_chunk(b"IDAT", zlib.compress(rows, 9))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + png_chunk(b"IHDR", header) + before + body + after + png_chunk(b"IEND", b"")


def unfiltered(rows):
    return b"".join(b"\0" + row for row in rows)


def adam7(pixels):
    """The seven passes of an interlaced picture of whole-byte pixels (H, W, bytes)."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    return b"".join(unfiltered(row.tobytes() for row in pixels[y0::dy, x0::dx]) for x0, y0, dx, dy in passes)


def packed(levels, bits):
    """Rows of `bits`-bit samples, most significant first."""
    rows = []
    for row in levels:
        text = "".join(format(int(level), f"0{bits}b") for level in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return rows


def make_png():
    rgb = scene()
    grey = rgb[:, :, 2]
    picture = Image.fromarray(rgb)
    add("rgb.png", encode(picture, "PNG"))
    add("rgba.png", encode(Image.fromarray(np.dstack([rgb, alpha()])), "PNG"))
    add("grey8.png", encode(Image.fromarray(grey), "PNG"))
    add("grey_alpha.png", encode(Image.fromarray(np.dstack([grey, alpha()]), "LA"), "PNG"))
    for bits in (1, 2, 4):
        add(f"grey{bits}.png", png(W, H, bits, 0, unfiltered(packed(grey >> (8 - bits), bits))))
    be = lambda samples: unfiltered(row.astype(">u2").tobytes() for row in samples)
    add("grey16.png", png(W, H, 16, 0, be(scene16(1))))
    add("grey_alpha16.png", png(W, H, 16, 4, be(scene16(2))))
    add("rgb16.png", png(W, H, 16, 2, be(scene16(3))))
    add("rgba16.png", png(W, H, 16, 6, be(scene16(4))))
    add("palette.png", encode(picture.quantize(64), "PNG"))
    add("palette_trns.png", encode(picture.quantize(16), "PNG", transparency=bytes([0, 128, 255])))
    for bits in (1, 2, 4):
        colours = bytes((i * 37 + c * 91) % 256 for i in range(1 << bits) for c in range(3))
        rows = unfiltered(packed(grey >> (8 - bits), bits))
        add(f"palette{bits}.png", png(W, H, bits, 3, rows, png_chunk(b"PLTE", colours)))
    rows = unfiltered(packed(grey >> 4, 4))
    add("short_palette.png", png(W, H, 4, 3, rows, png_chunk(b"PLTE", bytes(range(100, 127)))))
    add("rgb_trns.png", encode(picture, "PNG", transparency=(255, 0, 0)))
    add("grey_trns.png", encode(Image.fromarray(grey), "PNG", transparency=3))
    add("grey16_trns.png", png(W, H, 16, 0, be(scene16(1)), png_chunk(b"tRNS", b"\0\1")))
    add("interlaced.png", png(W, H, 8, 2, adam7(rgb), interlace=1))
    add("interlaced16.png", png(W, H, 16, 6, adam7(scene16(4).astype(">u2")), interlace=1))
    add("one_pixel.png", encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"))
    add("animated.png", encode(picture, "PNG", save_all=True, append_images=[picture.rotate(180)]))
    for orientation in range(1, 9):
        add(f"orientation{orientation}.png", encode(picture, "PNG", exif=exif(orientation)), cuts=False)
    rows = unfiltered(row.tobytes() for row in rgb)
    add("late_exif.png", png(W, H, 8, 2, rows, after=png_chunk(b"eXIf", exif(6)[6:])))
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="8"/>'
    add("xmp_orientation.png", png(W, H, 8, 2, rows, png_chunk(b"iTXt", xmp)))


# JPEG


def make_jpeg():
    picture = Image.fromarray(scene(48, 40))
    odd = Image.fromarray(scene(43, 29))
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        add(f"{name}.jpg", encode(picture, "JPEG", quality=92, subsampling=subsampling), LOSSY)
        add(f"{name}_odd.jpg", encode(odd, "JPEG", quality=75, subsampling=subsampling), LOSSY)
    add("progressive.jpg", encode(odd, "JPEG", quality=85, progressive=True), LOSSY)
    add("grey.jpg", encode(odd.convert("L"), "JPEG", quality=85), LOSSY)
    add("grey_progressive.jpg", encode(odd.convert("L"), "JPEG", progressive=True), LOSSY)
    add("restart.jpg", encode(odd, "JPEG", quality=85, restart_marker_blocks=2), LOSSY)
    add("adobe_rgb.jpg", encode(odd, "JPEG", quality=85, keep_rgb=True), LOSSY)
    y, x = np.mgrid[0:29, 0:43]
    inks = np.stack([x * 5, y * 8, (x * 7 + y * 3) % 256, (x + y) * 2], axis=-1).astype(np.uint8)
    cmyk = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=90)
    add("cmyk.jpg", cmyk, LOSSY)
    # The same bytes read as YCCK: the transform is the last byte of the Adobe segment.
    at = cmyk.index(b"Adobe\0") + 11
    add("ycck.jpg", cmyk[:at] + b"\2" + cmyk[at + 1 :], LOSSY)
    add("one_pixel.jpg", encode(Image.new("RGB", (1, 1), (200, 100, 50)), "JPEG"), LOSSY)
    add("thin.jpg", encode(Image.fromarray(scene(6, 33)), "JPEG", subsampling=2), LOSSY)
    small = Image.fromarray(scene(24, 16))
    for orientation in range(1, 9):
        add(f"orientation{orientation}.jpg", encode(small, "JPEG", exif=exif(orientation)), LOSSY, cuts=False)
    xmp = b'<rdf><tiff:Orientation>6</tiff:Orientation></rdf>'
    add("xmp_orientation.jpg", encode(small, "JPEG", xmp=xmp), LOSSY, cuts=False)


# WebP


def make_webp():
    picture = Image.fromarray(scene())
    rgba = Image.fromarray(np.dstack([scene(), alpha()]))
    add("lossless.webp", encode(picture, "WEBP", lossless=True))
    add("lossless_alpha.webp", encode(rgba, "WEBP", lossless=True, exact=True))
    add("lossless_palette.webp", encode(picture.quantize(8).convert("RGB"), "WEBP", lossless=True))
    add("lossy.webp", encode(picture, "WEBP", quality=80), LOSSY)
    add("lossy_even.webp", encode(Image.fromarray(scene(48, 32)), "WEBP", quality=95), LOSSY)
    add("lossy_alpha.webp", encode(rgba, "WEBP", quality=80, exact=True), LOSSY)
    frames = [rgba.rotate(180)]
    add("animated.webp", encode(rgba, "WEBP", lossless=True, exact=True, save_all=True, append_images=frames))
    for orientation in range(1, 9):
        data = encode(picture, "WEBP", lossless=True, exif=exif(orientation))
        add(f"orientation{orientation}.webp", data, cuts=False)


# GIF


def lzw(indices):
    """GIF's LZW at 8 bits without compression: a clear code often enough that codes stay 9 bits wide."""
    codes = []
    for at, index in enumerate(indices):
        if at % 250 == 0:
            codes.append(256)
        codes.append(int(index))
    codes.append(257)
    bits = sum(code << (9 * at) for at, code in enumerate(codes))
    body = bits.to_bytes((9 * len(codes) + 7) // 8, "little")
    blocks = [body[at : at + 255] for at in range(0, len(body), 255)]
    return b"\x08" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def gif(screen, frame, palette, local=None, transparent=None, background=0, interlaced=False):
    """A one-frame GIF; `frame` = (left, top, indices), palettes are bytes of 2^n colours."""
    left, top, indices = frame
    bits = lambda colours: (len(colours) // 3).bit_length() - 2
    out = b"GIF89a" + struct.pack("<HH", *screen)
    out += bytes([0x80 | bits(palette) if palette else 0, background, 0]) + (palette or b"")
    if transparent is not None:
        out += bytes([0x21, 0xF9, 4, 1, 0, 0, transparent, 0])
    height, width = indices.shape
    flags = (0x80 | bits(local) if local else 0) | (0x40 if interlaced else 0)
    out += b"\x2c" + struct.pack("<HHHHB", left, top, width, height, flags) + (local or b"")
    order = list(range(height))
    if interlaced:
        order = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
    return out + lzw(indices[order].reshape(-1)) + b"\x3b"


def make_gif():
    picture = Image.fromarray(scene())
    indices = (scene()[:, :, 2] >> 2).astype(np.uint8)
    colours = bytes((i * 37 + c * 91) % 256 for i in range(64) for c in range(3))
    other = bytes((i * 53 + c * 29 + 7) % 256 for i in range(64) for c in range(3))
    greys = bytes(i for i in range(64) for _ in range(3))
    add("plain.gif", encode(picture, "GIF"))
    add("grey.gif", encode(picture.convert("L"), "GIF"))
    add("grey_ramp.gif", gif((W, H), (0, 0, indices), greys))
    add("interlaced.gif", gif((W, H), (0, 0, indices), colours, interlaced=True))
    add("local_palette.gif", gif((W, H), (0, 0, indices), colours, local=other))
    add("transparent.gif", gif((W, H), (0, 0, indices), colours, transparent=9))
    add("partial.gif", gif((W + 6, H + 5), (3, 2, indices), colours, background=5))
    add("partial_transparent.gif", gif((W + 6, H + 5), (3, 2, indices), colours, transparent=9, background=5))
    add("partial_local.gif", gif((W + 6, H + 5), (3, 2, indices), None, local=other))
    add("beyond_screen.gif", gif((W - 4, H - 4), (2, 3, indices), colours))
    add("no_screen.gif", gif((0, 0), (0, 0, indices), colours))
    add("short_palette.gif", gif((W, H), (0, 0, indices), colours[: 16 * 3]))
    frames = [picture.rotate(180)]
    add("animated.gif", encode(picture, "GIF", save_all=True, append_images=frames, duration=50))


# BMP


def bmp(width, height, bits, rows, palette=b"", compression=0, masks=b"", header_size=40, top_down=False):
    signed_height = -height if top_down else height
    colours = len(palette) // 4
    header = struct.pack("<IiiHHIIiiII", header_size, width, signed_height, 1, bits, compression, len(rows), 0, 0, colours, 0)
    if header_size > 40:
        header += masks + b"\0" * (header_size - 40 - len(masks))
        masks = b""
    offset = 14 + len(header) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + masks + palette + rows


def bmp_rows(rows, top_down=False):
    padded = [row + b"\0" * (-len(row) % 4) for row in rows]
    return b"".join(padded if top_down else reversed(padded))


def make_bmp():
    rgb = scene()
    grey = rgb[:, :, 2]
    picture = Image.fromarray(rgb)
    add("rgb24.bmp", encode(picture, "BMP"))
    add("grey.bmp", encode(Image.fromarray(grey), "BMP"))
    add("bilevel.bmp", encode(picture.convert("1"), "BMP"))
    add("palette8.bmp", encode(picture.quantize(64), "BMP"))
    for bits in (1, 4, 8):
        palette = bytes((i * 37 + c * 91) % 256 if c < 3 else 0 for i in range(1 << bits) for c in range(4))
        add(f"palette{bits}_raw.bmp", bmp(W, H, bits, bmp_rows(packed(grey >> (8 - bits), bits)), palette))
    bgr = [row[:, ::-1].tobytes() for row in rgb]
    add("top_down.bmp", bmp(W, H, 24, bmp_rows(bgr, True), top_down=True))
    bgra = [np.dstack([rgb[:, :, ::-1], alpha()])[y].tobytes() for y in range(H)]
    add("rgb32.bmp", bmp(W, H, 32, bmp_rows(bgra)))
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    add("rgba32_v4.bmp", bmp(W, H, 32, bmp_rows(bgra), compression=3, masks=masks, header_size=108))
    wide = rgb.astype(np.uint16)
    r5, g5, g6, b5 = wide[:, :, 0] >> 3, wide[:, :, 1] >> 3, wide[:, :, 1] >> 2, wide[:, :, 2] >> 3
    rows555 = bmp_rows([row.astype("<u2").tobytes() for row in (r5 << 10) | (g5 << 5) | b5])
    rows565 = bmp_rows([row.astype("<u2").tobytes() for row in (r5 << 11) | (g6 << 5) | b5])
    add("rgb555.bmp", bmp(W, H, 16, rows555))
    add("rgb565.bmp", bmp(W, H, 16, rows565, compression=3, masks=struct.pack("<III", 0xF800, 0x7E0, 0x1F)))
    palette = bytes((i * 37 + c * 91) % 256 if c < 3 else 0 for i in range(256) for c in range(4))
    runs = b"".join(
        bytes([W - 9, y * 7 % 256, 0, 9]) + bytes(range(y, y + 9)) + b"\0" + b"\0\0" for y in range(H)
    )
    add("rle8.bmp", bmp(W, H, 8, runs + b"\0\1", palette, compression=1))


# TIFF


def tiff(tags, data, big_endian=False):
    """A one-strip TIFF; tags = {number: [16-bit values] or (32-bit value,)}; the strip comes last."""
    e = ">" if big_endian else "<"
    entries, extra = [], b""
    count = len(tags) + 3
    after = 8 + 2 + 12 * count + 4
    extra_size = sum(2 * len(v) for v in tags.values() if isinstance(v, list) and len(v) > 2)
    tags = {**tags, 273: (after + extra_size,), 278: tags[257], 279: (len(data),)}
    for number, values in sorted(tags.items()):
        if isinstance(values, tuple):
            entries.append(struct.pack(e + "HHII", number, 4, 1, values[0]))
            continue
        body = struct.pack(f"{e}{len(values)}H", *values)
        if len(body) > 4:
            entries.append(struct.pack(e + "HHII", number, 3, len(values), after + len(extra)))
            extra += body
        else:
            entries.append(struct.pack(e + "HHI", number, 3, len(values)) + body.ljust(4, b"\0"))
    head = b"MM\0\x2a\0\0\0\x08" if big_endian else b"II\x2a\0\x08\0\0\0"
    return head + struct.pack(e + "H", count) + b"".join(entries) + b"\0" * 4 + extra + data


def basic(bits, interpretation, samples=1, width=W, height=H, **more):
    tags = {256: [width], 257: [height], 258: [bits] * samples, 259: [1], 262: [interpretation], 277: [samples]}
    return {**tags, **{int(key[1:]): value for key, value in more.items()}}


def make_tiff():
    rgb = scene()
    grey = rgb[:, :, 2]
    picture = Image.fromarray(rgb)
    add("rgb.tif", encode(picture, "TIFF"))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        add(f"rgb_{compression}.tif", encode(picture, "TIFF", compression=compression))
    rgba = Image.fromarray(np.dstack([rgb, alpha()]))
    add("rgba.tif", encode(rgba, "TIFF"))
    add("grey8.tif", encode(Image.fromarray(grey), "TIFF"))
    add("grey_alpha.tif", encode(Image.fromarray(np.dstack([grey, alpha()]), "LA"), "TIFF"))
    add("bilevel.tif", encode(picture.convert("1"), "TIFF"))
    add("bilevel_fax4.tif", encode(picture.convert("1"), "TIFF", compression="group4"))
    add("palette.tif", encode(picture.quantize(64), "TIFF"))
    add("palette_lzw.tif", encode(picture.quantize(64), "TIFF", compression="tiff_lzw"))
    add("cmyk.tif", encode(picture.convert("CMYK"), "TIFF"))
    for bits in (1, 2, 4):
        data = b"".join(packed(grey >> (8 - bits), bits))
        add(f"grey{bits}.tif", tiff(basic(bits, 1), data))
        add(f"white_is_zero{bits}.tif", tiff(basic(bits, 0), data))
        colours = [(i * 3711 + c * 9133) % 65536 for c in range(3) for i in range(1 << bits)]
        add(f"palette{bits}.tif", tiff(basic(bits, 3, t320=colours), data))
        add(f"palette{bits}_be.tif", tiff(basic(bits, 3, t320=colours), data, True))
    add("white_is_zero8.tif", tiff(basic(8, 0), grey.tobytes()))
    for big in (False, True):
        order, e = ("be", ">u2") if big else ("le", "<u2")
        add(f"grey16_{order}.tif", tiff(basic(16, 1), scene16(1).astype(e).tobytes(), big))
        add(f"rgb16_{order}.tif", tiff(basic(16, 2, 3), scene16(3).astype(e).tobytes(), big))
        data = scene16(4).astype(e).tobytes()
        add(f"rgba16_{order}.tif", tiff(basic(16, 2, 4, t338=[2]), data, big))
        add(f"cmyk16_{order}.tif", tiff(basic(16, 5, 4), data, big))
    four = np.dstack([rgb, alpha()]).tobytes()
    add("rgbx.tif", tiff(basic(8, 2, 4, t338=[0]), four))
    add("premultiplied.tif", tiff(basic(8, 2, 4, t338=[1]), four))
    for orientation in range(1, 9):
        add(f"orientation{orientation}.tif", tiff(basic(8, 2, 3, t274=[orientation]), rgb.tobytes()), cuts=False)


# Refused


def make_refused():
    """Files with the error that names what is wrong with them; the limit of the test is 64 million pixels."""
    refused = {}

    def refuse(name, data, error):
        (FILES / name).write_bytes(data)
        refused[name] = error

    refuse("bomb.png", png(30000, 30000, 1, 0, b"\0" * 4096), "TooManyPixels")
    refuse("bomb.tif", tiff(basic(8, 2, 3, 20000, 10000), b"\0" * 64), "TooManyPixels")
    refuse("bomb.bmp", bmp(30000, 30000, 24, b"\0" * 64), "TooManyPixels")
    refuse("bomb.gif", gif((65535, 65535), (0, 0, np.zeros((2, 2), np.uint8)), b"\0" * 6), "TooManyPixels")
    jpeg = encode(Image.new("RGB", (8, 8)), "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    refuse("bomb.jpg", jpeg[:at] + struct.pack(">HH", 65500, 65500) + jpeg[at + 4 :], "TooManyPixels")
    refuse("zero.jpg", jpeg[:at] + struct.pack(">HH", 8, 0) + jpeg[at + 4 :], "Corrupt")
    webp = encode(Image.new("RGB", (8, 8)), "WEBP", lossless=True)
    at = webp.index(b"VP8L") + 9
    size = struct.pack("<I", 0x3FFE << 14 | 0x3FFE)
    refuse("bomb.webp", webp[:at] + size + webp[at + 4 :], "TooManyPixels")
    refuse("zero.png", png(0, 8, 8, 2, b""), "ZeroSized")
    refuse("zero.bmp", bmp(8, 0, 24, b""), "ZeroSized")
    refuse("zero.gif", gif((0, 0), (0, 0, np.zeros((0, 0), np.uint8)), b"\0" * 6), "ZeroSized")
    refuse("zero.tif", tiff(basic(8, 2, 3, 0, 8), b""), "ZeroSized")
    refuse("text.png", b"This is no picture, whatever its name says.\n", "UnknownFormat")
    refuse("markup.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "UnknownFormat")
    refuse("empty.png", b"", "Empty")
    good = encode(Image.fromarray(scene()), "PNG")
    at = good.index(b"IDAT") + 20
    refuse("damaged.png", good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :], "Corrupt")
    return refused


def pattern(width, height):
    """The picture that tests/images computes in the same way: byte i is (i * 2654435761 mod 2^32) >> 24."""
    i = np.arange(width * height * 3, dtype=np.uint64)
    return (((i * 2654435761) & 0xFFFFFFFF) >> 24).astype(np.uint8).reshape(height, width, 3)


def make_resize_vectors():
    sizes = [(1, 1, 56), (2, 3, 64), (37, 53, 64), (64, 64, 64), (64, 40, 64), (40, 64, 64), (100, 80, 64)]
    sizes += [(56, 30, 56), (512, 512, 448), (640, 360, 448), (333, 500, 448), (1, 700, 112), (900, 1, 112), (97, 89, 1)]
    vectors = []
    for width, height, side in sizes:
        resized = Image.fromarray(pattern(width, height)).resize((side, side), Image.Resampling.BICUBIC)
        digest = hashlib.sha256(resized.tobytes()).hexdigest()
        vectors.append({"width": width, "height": height, "side": side, "sha256": digest})
    return vectors


def write_json(name, value):
    lines = ",\n".join(json.dumps(item) for item in value)
    (HERE / name).write_text(f"[\n{lines}\n]\n")


def main():
    for folder in (FILES, EXPECTED):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for make in (make_png, make_jpeg, make_webp, make_gif, make_bmp, make_tiff):
        make()
    write_json("index.json", cases)
    write_json("refused.json", [{"file": name, "error": error} for name, error in make_refused().items()])
    write_json("resize_vectors.json", make_resize_vectors())


if __name__ == "__main__":
    main()
