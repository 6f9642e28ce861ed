"""Draw illustrated scenes, with things from the Noto Color Emoji font on a painted background, and describe them.

Both the images of challenge_set.csv and the scenes that `mini` is trained on in addition to photos are drawn here; each
caller provides its own list or random generator, so no scene is shared. Noto Color Emoji is licensed under the SIL Open
Font License 1.1 (Debian: fonts-noto-color-emoji).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the only size in the bitmap font

# The things that a scene can contain: their emoji and the nouns for them, the most common one first.
THINGS: dict[str, tuple[str, ...]] = {
    "🐶": ("dog", "puppy"), "🐱": ("cat", "kitten"), "🐭": ("mouse",), "🐰": ("rabbit", "bunny"), "🦊": ("fox",),
    "🐻": ("bear",), "🐼": ("panda",), "🐯": ("tiger",), "🦁": ("lion",), "🐮": ("cow",), "🐷": ("pig",),
    "🐸": ("frog",), "🐵": ("monkey",), "🐔": ("chicken", "hen"), "🐧": ("penguin",), "🦆": ("duck",),
    "🦅": ("eagle",), "🦉": ("owl",), "🐺": ("wolf",), "🐴": ("horse",), "🦄": ("unicorn",), "🐝": ("bee",),
    "🦋": ("butterfly",), "🐌": ("snail",), "🐞": ("ladybug",), "🐢": ("turtle",), "🐍": ("snake",),
    "🦎": ("lizard",), "🐙": ("octopus",), "🦀": ("crab",), "🐠": ("fish",), "🐬": ("dolphin",), "🐳": ("whale",),
    "🦈": ("shark",), "🐊": ("crocodile",), "🦓": ("zebra",), "🐘": ("elephant",), "🦒": ("giraffe",),
    "🐪": ("camel",), "🦘": ("kangaroo",), "🐑": ("sheep",), "🐐": ("goat",), "🦌": ("deer",), "🦚": ("peacock",),
    "🦜": ("parrot",), "🦢": ("swan",), "🦩": ("flamingo",), "🐿️": ("squirrel",), "🦔": ("hedgehog",),
    "🌵": ("cactus",), "🎄": ("christmas tree",), "🌲": ("pine tree",), "🌳": ("tree",), "🌴": ("palm tree",),
    "🌻": ("sunflower",), "🌷": ("tulip",), "🌹": ("rose",), "🍄": ("mushroom",), "🍁": ("maple leaf",),
    "☀️": ("sun",), "🌙": ("moon", "crescent moon"), "⭐": ("star",), "🌈": ("rainbow",), "☁️": ("cloud",),
    "⛄": ("snowman",), "❄️": ("snowflake",), "🔥": ("fire", "flame"), "🌊": ("wave",), "⚡": ("lightning bolt",),
    "🍎": ("red apple", "apple"), "🍐": ("pear",), "🍊": ("orange", "tangerine"), "🍋": ("lemon",),
    "🍌": ("banana",), "🍉": ("watermelon",), "🍇": ("grapes",), "🍓": ("strawberry",), "🍒": ("cherries",),
    "🍍": ("pineapple",), "🥥": ("coconut",), "🍅": ("tomato",), "🥑": ("avocado",), "🥦": ("broccoli",),
    "🌽": ("corn",), "🥕": ("carrot",), "🍞": ("bread", "loaf of bread"), "🧀": ("cheese",), "🍳": ("fried egg",),
    "🍔": ("hamburger", "burger"), "🍟": ("french fries", "fries"), "🍕": ("pizza", "slice of pizza"),
    "🌭": ("hot dog",), "🌮": ("taco",), "🍣": ("sushi",), "🍦": ("ice cream",), "🍩": ("donut", "doughnut"),
    "🍪": ("cookie",), "🎂": ("birthday cake", "cake"), "🍫": ("chocolate bar",), "☕": ("cup of coffee", "coffee"),
    "🍺": ("beer", "glass of beer"), "🍷": ("glass of wine", "wine"), "🚗": ("red car", "car"), "🚕": ("taxi",),
    "🚌": ("bus",), "🚓": ("police car",), "🚑": ("ambulance",), "🚒": ("fire engine", "fire truck"),
    "🚜": ("tractor",), "🚲": ("bicycle", "bike"), "🏍️": ("motorcycle",), "🚂": ("steam train", "train"),
    "✈️": ("airplane", "plane"), "🚁": ("helicopter",), "🚀": ("rocket",), "🛸": ("flying saucer",),
    "⛵": ("sailboat", "boat"), "🚢": ("ship",), "⚓": ("anchor",), "🎈": ("red balloon", "balloon"),
    "🏠": ("house",), "🏰": ("castle",), "⛺": ("tent",), "🏭": ("factory",), "⛪": ("church",),
    "🗽": ("statue of liberty",), "🎡": ("ferris wheel",), "⛲": ("fountain",), "🌋": ("volcano",),
    "⚽": ("soccer ball", "football"), "🏀": ("basketball",), "🏈": ("american football",), "🎾": ("tennis ball",),
    "🎳": ("bowling pins",), "🥊": ("boxing glove",), "⛸️": ("ice skate",), "🛹": ("skateboard",),
    "🎸": ("guitar",), "🎹": ("piano", "keyboard"), "🎺": ("trumpet",), "🎻": ("violin",), "🥁": ("drum",),
    "🎨": ("paint palette",), "🎥": ("movie camera",), "📷": ("camera",), "📱": ("phone", "smartphone"),
    "💻": ("laptop", "computer"), "📺": ("television", "tv"), "⏰": ("alarm clock", "clock"), "🔑": ("key",),
    "🔨": ("hammer",), "✂️": ("scissors",), "💡": ("light bulb",), "📚": ("books", "pile of books"),
    "✏️": ("pencil",), "🎁": ("gift", "present"), "🧸": ("teddy bear",), "👑": ("crown",), "💎": ("diamond",),
    "☂️": ("umbrella",), "👓": ("glasses",), "🎩": ("top hat",), "👟": ("sneaker", "shoe"), "👢": ("boot",),
    "🎒": ("backpack",), "🪑": ("chair",), "🛏️": ("bed",), "🛁": ("bathtub",), "🔔": ("bell",), "🕯️": ("candle",),
    "🤖": ("robot",), "👻": ("ghost",), "👽": ("alien",), "🎃": ("pumpkin",), "🎅": ("santa claus",),
    "🤡": ("clown",), "🧙": ("wizard",), "🧜‍♀️": ("mermaid",), "🧚": ("fairy",), "🤴": ("prince",), "👸": ("princess",),
    "👮": ("police officer",), "👩‍🚀": ("astronaut",), "👨‍🍳": ("cook", "chef"), "👩‍🌾": ("farmer",),
    "👶": ("baby",), "👵": ("old woman",), "💃": ("dancer", "dancing woman"), "🏄": ("surfer",),
    "⛷️": ("skier",), "🏊": ("swimmer",), "🧗": ("climber",), "🚴": ("cyclist",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Background:
    """A painted place: the colours of the sky from top to horizon, those of the ground, and the words for the place."""

    phrases: tuple[str, ...]
    sky: tuple[str, str]
    ground: tuple[str, str]
    horizon: float = 0.6  # as a fraction of the height


BACKGROUNDS: dict[str, Background] = {
    "meadow": Background(("on green grass", "in a meadow"), ("#6fb7f2", "#d6efff"), ("#6cc24a", "#3f8f2c")),
    "beach": Background(("on a sandy beach", "on the beach"), ("#58b4e8", "#bfe9f7"), ("#f3dfa2", "#dcbf78")),
    "sea": Background(("on the blue sea", "on the sea"), ("#9ed8f5", "#e8f7fd"), ("#1f78b4", "#0b4f86"), 0.45),
    "underwater": Background(("under water", "deep under water"), ("#2aa7c9", "#0d6ea3"), ("#0b5a8a", "#c2a76a"), 0.85),
    "snow": Background(("in the snow", "on white snow"), ("#b8cfe0", "#e9f1f7"), ("#ffffff", "#dfe9f2"), 0.55),
    "desert": Background(("in the desert", "on desert sand"), ("#f7c873", "#fde9b8"), ("#d99a4e", "#b5732f"), 0.55),
    "night": Background(("at night", "under the night sky"), ("#0b1033", "#27305e"), ("#1b2a1f", "#0f1a13"), 0.75),
    "sunset": Background(("at sunset", "in front of a sunset"), ("#6a3d8f", "#ff8c42"), ("#4a2c3a", "#2b1a24"), 0.65),
    "street": Background(("on a grey street", "on the street"), ("#c5d3dc", "#eef2f4"), ("#7a7d80", "#55585b"), 0.55),
    "room": Background(("in a room", "on a wooden floor"), ("#f3d9c6", "#efcdb4"), ("#a9713f", "#7d4f28"), 0.62),
    "table": Background(("on a red table", "on a red tablecloth"), ("#fff6e0", "#ffe9c0"), ("#cf3f3f", "#a32828"), 0.4),
    "space": Background(("in outer space", "in space"), ("#05060f", "#161233"), ("#161233", "#2a1747"), 0.7),
}


@functools.cache
def sticker(emoji: str) -> Image.Image:
    """Draw one emoji as an RGBA image, cropped to its visible part."""
    if not FONT.exists():
        raise SystemExit(f"{FONT} is missing: install Debian's fonts-noto-color-emoji")
    canvas = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(canvas).text((20, 20), emoji, font=ImageFont.truetype(str(FONT), FONT_SIZE), embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font draws nothing for {emoji!r}")
    return canvas.crop(box)


@functools.cache
def paint(name: str, size: tuple[int, int]) -> Image.Image:
    """Paint a background as an RGB image: two vertical gradients that meet at the horizon."""
    background = BACKGROUNDS[name]
    width, height = size
    horizon = round(height * background.horizon)
    picture = Image.new("RGB", size)
    for top, bottom, colours in ((0, horizon, background.sky), (horizon, height, background.ground)):
        gradient = Image.linear_gradient("L").resize((width, bottom - top))
        upper, lower = (Image.new("RGB", gradient.size, colour) for colour in colours)
        picture.paste(Image.composite(lower, upper, gradient), (0, top))
    return picture


def compose(
    things: Sequence[str], background: str, rng: random.Random, *, size: tuple[int, int] = (480, 400)
) -> Image.Image:
    """Draw a scene as an RGB image: `things` in loose columns within the centre square, on a background.

    Args:
        things: Emoji, drawn from left to right; a repeated emoji is drawn again.
        background: The name of one of `BACKGROUNDS`.
        rng: The random generator for sizes, heights, rotations and mirroring.
        size: Width and height in pixels.
    """
    picture = paint(background, size).copy()
    side = min(size)
    left = (size[0] - side) / 2
    rows = 1 if len(things) <= 3 else 2
    columns = -(-len(things) // rows)
    for i, emoji in enumerate(things):
        row, column = divmod(i, columns)
        in_row = min(columns, len(things) - row * columns)
        cell = side / in_row
        extent = min(cell, side / rows) * rng.uniform(0.72, 0.98)
        art = sticker(emoji)
        scale = extent / max(art.size)
        art = art.resize(
            (max(1, round(art.width * scale)), max(1, round(art.height * scale))), Image.Resampling.BICUBIC
        )
        if rng.random() < 0.5:
            art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        art = art.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True)
        x = left + column * cell + (cell - art.width) / 2 + rng.uniform(-0.05, 0.05) * cell
        middle = (row + 0.5) * side / rows if rows == 2 else side * 0.58
        y = middle - art.height / 2 + rng.uniform(-0.06, 0.06) * side
        _drop(picture, art, (round(x), round(y)))
    return picture


def _drop(picture: Image.Image, art: Image.Image, corner: tuple[int, int]) -> None:
    """Paste `art` with a soft shadow."""
    shadow = Image.new("L", picture.size)
    shadow.paste(art.getchannel("A").point(lambda a: a // 3), (corner[0] + 4, corner[1] + 5))
    picture.paste((0, 0, 0), (0, 0), shadow.filter(ImageFilter.GaussianBlur(3)))
    picture.paste(art, corner, art)


_COUNTS = {2: "two", 3: "three"}
_PLURALS = {
    "mouse": "mice", "wolf": "wolves", "fish": "fish", "sheep": "sheep", "deer": "deer", "puppy": "puppies",
    "bunny": "bunnies", "strawberry": "strawberries", "butterfly": "butterflies", "ladybug": "ladybugs", "fox": "foxes",
    "octopus": "octopuses", "cactus": "cactuses", "bus": "buses", "church": "churches", "princess": "princesses",
    "baby": "babies", "maple leaf": "maple leaves", "cherries": "cherries", "grapes": "grapes", "witch": "witches",
}  # fmt: skip
_NO_ARTICLE = {
    "grapes", "cherries", "broccoli", "corn", "bread", "cheese", "french fries", "fries", "pizza", "sushi", "ice cream",
    "coffee", "beer", "wine", "bowling pins", "scissors", "books", "glasses", "santa claus", "fire",
}  # fmt: skip


def _counted(noun: str, count: int) -> str:
    if count > 1:
        return f"{_COUNTS[count]} {_PLURALS.get(noun, noun if noun.endswith('s') else noun + 's')}"
    if noun in _NO_ARTICLE:
        return noun
    if noun in ("sun", "moon", "statue of liberty"):
        return f"the {noun}"
    return f"{'an' if noun[0] in 'aeio' or noun == 'umbrella' else 'a'} {noun}"


def describe(things: Sequence[str], background: str, rng: random.Random) -> str:
    """Describe a scene in one of many wordings: some or all of its things, in any order, and perhaps the place."""
    counts = {emoji: min(3, things.count(emoji)) for emoji in dict.fromkeys(things)}
    nouns = [_counted(rng.choice(THINGS[emoji]), n) for emoji, n in counts.items()]
    rng.shuffle(nouns)
    if len(nouns) > 2 and rng.random() < 0.3:
        nouns.pop()
    place = rng.choice(BACKGROUNDS[background].phrases)
    listed = nouns[0] if len(nouns) == 1 else f"{', '.join(nouns[:-1])} and {nouns[-1]}"
    pattern = rng.choice(
        ("{things} {place}", "{things}", "{place}, {things}", "a picture of {things}", "there is {things} {place}",
         "{first} next to {rest} {place}", "{first} with {rest}", "an illustration of {things} {place}")
    )  # fmt: skip
    if len(nouns) == 1 and "{rest}" in pattern:
        pattern = "{things} {place}"
    rest = " and ".join(nouns[1:]) if len(nouns) < 4 else f"{', '.join(nouns[1:-1])} and {nouns[-1]}"
    return pattern.format(things=listed, place=place, first=nouns[0], rest=rest)


def random_scene(rng: random.Random) -> tuple[list[str], str]:
    """Choose a random scene: one to five things, sometimes one of them two or three times, and a place."""
    things = rng.sample(sorted(THINGS), rng.choice((1, 2, 3, 3, 4, 4, 5)))
    if rng.random() < 0.2:
        things += [things[0]] * rng.choice((1, 2))
    return things, rng.choice(sorted(BACKGROUNDS))
