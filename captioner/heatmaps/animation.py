"""Attention as a moving picture: one frame a word."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image, ImageDraw

from captioner.heatmaps.checks import check
from captioner.heatmaps.heat import drawn_size, heat_panels, highest_weight, resized
from captioner.heatmaps.layout import FAINT, INK, PAPER, SENTINEL, TRACK, draw_text, sentinel_bar
from captioner.heatmaps.text import printable, text_width, wrap
from captioner.types import AttentionMaps, WordMaps

ACCENT = (245, 166, 35)
MARGIN = 16
HEADER = 44
WORD_SIZE = 28
TEXT_SIZE = 17
LINE = 26
BAR = 4
SPACE = 8
SENTINEL_WIDTH = 110


def animation(
    photo: Image.Image | None,
    maps: AttentionMaps,
    smooth: bool = True,
    shared_scale: bool = False,
    side: int = 400,
) -> list[Image.Image]:
    """One frame a word: the word, the photo under the word's heat, and the caption with the word marked.

    A bar under the photo moves on with every word, so no two frames are the same picture, even where a
    word and its map are repeated.

    Args:
        photo: the upright photo, RGB.
        maps: T words and where the model looked for them.
        smooth: Gaussian upsampling of the maps of a grid, or its cells as they are.
        shared_scale: one scale of colours for all frames instead of one for each.
        side: the photo is drawn with the area of a square of this many pixels.

    Returns:
        T RGB pictures of one size; the photo alone when there are no words.

    Raises:
        ValueError: for maps that are not of this photo, or of a sentence.
    """
    check(photo, maps)
    if photo is None or isinstance(maps, WordMaps):
        raise ValueError("the maps of a sentence have no animation; draw their figure")
    picture = resized(photo, drawn_size(photo, side))
    if not maps.words:
        return [picture]
    words = [printable(word) for word in maps.words]
    width = max(picture.width, 320, len(words)) + 2 * MARGIN
    lines = wrap(words, TEXT_SIZE, width - 2 * MARGIN, SPACE)
    bar_y = HEADER + picture.height + 10
    height = bar_y + BAR + 8 + len(lines) * LINE + MARGIN // 2
    frames = []
    highest = highest_weight(maps, picture.size, smooth) if shared_scale else None
    for i, panel in enumerate(heat_panels(picture, maps, smooth, highest)):
        frame = Image.new("RGB", (width, height), PAPER)
        draw = ImageDraw.Draw(frame)
        room = width - 2 * MARGIN
        if maps.sentinel is not None:
            room -= SENTINEL_WIDTH + SPACE
            bar = sentinel_bar(float(maps.sentinel[i]), 13, SENTINEL_WIDTH)
            frame.paste(bar, (width - MARGIN - SENTINEL_WIDTH, HEADER - bar.height - 8))
        draw_text(draw, (MARGIN, 4), words[i], WORD_SIZE, room)
        frame.paste(panel, ((width - picture.width) // 2, HEADER))
        _draw_bar(draw, bar_y, width - 2 * MARGIN, i, len(words))
        _draw_caption(draw, bar_y + BAR + 8, lines, i, width - 2 * MARGIN)
        frames.append(frame)
    return frames


def _draw_bar(draw: ImageDraw.ImageDraw, y: int, length: int, current: int, num_words: int) -> None:
    """A track over the whole caption with the current word's part marked."""
    start, stop = (MARGIN + length * i // num_words for i in (current, current + 1))
    draw.rectangle((MARGIN, y, MARGIN + length - 1, y + BAR - 1), fill=TRACK)
    draw.rectangle((start, y, stop - 1, y + BAR - 1), fill=ACCENT)


def _draw_caption(draw: ImageDraw.ImageDraw, y: int, lines: list[list[str]], current: int, width: int) -> None:
    """The whole caption with one word marked."""
    index = 0
    for line in lines:
        x = float(MARGIN)
        for word in line:
            advance = text_width(word, TEXT_SIZE)
            if index == current:
                end = MARGIN + min(x - MARGIN + advance, width)
                draw.rounded_rectangle((x - 4, y + 1, end + 3, y + LINE - 2), radius=5, fill=ACCENT)
            draw_text(draw, (x, y), word, TEXT_SIZE, width, INK if index == current else FAINT)
            x += advance + SPACE
            index += 1
        y += LINE


def save_gif(frames: list[Image.Image], file: BinaryIO, milliseconds: int = 700) -> None:
    """Write frames as a GIF that repeats for ever, each with colours of its own.

    Args:
        frames: RGB pictures of one size. Pillow merges a frame into the one before where both are the same
            picture; those of `animation` differ.
        file: open for writing.
        milliseconds: how long each frame stands.
    """
    first, *rest = [_with_palette(frame) for frame in frames]
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=False)


def _with_palette(frame: Image.Image) -> Image.Image:
    """The frame in 256 colours: those it uses most, and exact ones for what is drawn around the photo."""
    drawn = [PAPER, INK, FAINT, ACCENT, TRACK, SENTINEL]
    own = frame.quantize(256 - len(drawn), method=Image.Quantize.MEDIANCUT)
    colours = [*(own.getpalette("RGB") or []), *(channel for colour in drawn for channel in colour)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return frame.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
