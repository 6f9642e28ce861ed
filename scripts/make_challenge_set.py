"""Create challenge_set.csv and its images: 46 rows that match, 3 with another image's caption, and 2 broken on purpose.

    .venv/bin/python -m scripts.make_challenge_set

The scenes are listed here by hand, with their things, place and caption. The files are JPEGs, PNGs, WebPs and GIFs. The
images are composed from Noto Color Emoji (SIL Open Font License 1.1), so they may be shared freely.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from scripts.scenes import compose

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "challenge_set"
SEED = 20_260_101

# name, things from left to right, background, caption
SCENES: tuple[tuple[str, str, str, str], ...] = (
    ("farm", "🐮 🐷 🐔 🚜", "meadow", "A farm with a cow, a pig, a hen and a green tractor"),
    ("savanna", "🦁 🐘 🦒 🦓", "desert", "A lion, an elephant, a giraffe and a zebra on the dry savanna"),
    ("reef", "🐙 🐠 🐢 🦈", "underwater", "An octopus, a striped fish, a turtle and a shark under water"),
    ("breakfast", "🍳 🍞 ☕ 🍊", "table", "Breakfast on a red table: a fried egg, bread, coffee and an orange"),
    ("winter", "⛄ 🌲 ⛷️", "snow", "A snowman and a pine tree beside a skier in the snow"),
    ("fruit", "🍎 🍌 🍇 🍓", "table", "An apple, a banana, grapes and a strawberry on a red tablecloth"),
    ("space", "🚀 👩‍🚀 🛸 👽", "space", "An astronaut and a rocket meet an alien and a flying saucer in outer space"),
    ("traffic", "🚕 🚌 🚓 🚲", "street", "A taxi, a bus, a police car and a bicycle on a grey street"),
    ("band", "🎸 🥁 🎺 🎹", "room", "A guitar, a drum, a trumpet and a piano in a room"),
    ("fairytale", "🏰 👸 🦄 🧙", "meadow", "A princess with a unicorn and a wizard in front of a castle"),
    ("sailing", "⛵ 🐬 ☀️", "sea", "A sailboat and a dolphin on the blue sea under the sun"),
    ("camping", "⛺ 🔥 🐻 🌙", "night", "A tent, a camp fire and a bear under the moon at night"),
    ("party", "🎂 🎈 🎁 🤡", "room", "A birthday cake, a red balloon, a present and a clown"),
    ("ball_games", "⚽ 🏀 🎾 🏈", "meadow", "A soccer ball, a basketball, a tennis racket and an american football on grass"),
    ("fast_food", "🍔 🍟 🍕 🌭", "table", "A hamburger, french fries, a slice of pizza and a hot dog"),
    ("halloween", "🎃 👻 🕯️ 🦉", "night", "A carved pumpkin, a ghost, a candle and an owl at night"),
    ("island", "🌴 🥥 🦀 🌊", "beach", "A palm tree, a coconut, a crab and a wave on a sandy beach"),
    ("desk", "💻 📚 ✏️ 👓", "room", "A laptop, a pile of books, a pencil and glasses"),
    ("oasis", "🐪 🌵 🐍", "desert", "A camel, a cactus and a snake in the desert"),
    ("ice", "🐧 🐳 ❄️", "snow", "A penguin, a whale and a snowflake on white ice"),
    ("garden", "🌻 🐝 🦋 🌷", "meadow", "A sunflower, a bee, a butterfly and a pink tulip in a garden"),
    ("rescue", "🚑 🚒 👮 🚁", "street", "An ambulance, a fire engine, a police officer and a helicopter"),
    ("christmas", "🎄 🎅 🦌 🔔", "snow", "Santa claus with a reindeer, a christmas tree and a golden bell"),
    ("vegetables", "🥕 🥦 🌽 🍅", "table", "A carrot, broccoli, corn and a tomato"),
    ("storm", "⚡ ☁️ ☂️ 🌈", "sea", "A lightning bolt, a cloud, an umbrella and a rainbow over the sea"),
    ("forest", "🦊 🐿️ 🍄 🌳", "meadow", "A fox, a squirrel and a red mushroom beside a tree"),
    ("airport", "✈️ 🎒 📷", "street", "An airplane, a backpack and a camera"),
    ("harbour", "🚢 ⚓ 🐠", "sea", "A big ship, an anchor and a fish at sea"),
    ("bedroom", "🛏️ 🧸 ⏰ 👶", "room", "A baby with a teddy bear, a bed and an alarm clock in a room"),
    ("surf", "🏄 🌊 ☀️", "beach", "A surfer rides a wave below the sun at the beach"),
    ("sweets", "🍦 🍩 🍪 🍫", "table", "Ice cream, a donut, a cookie and a chocolate bar"),
    ("pets", "🐶 🐱 🐰", "room", "A dog, a cat and a rabbit on a wooden floor"),
    ("volcano", "🌋 🦎 🦜", "sunset", "A volcano at sunset with a lizard and a parrot"),
    ("kitchen", "👨‍🍳 🍷 🧀 🍋", "room", "A cook with a glass of wine, cheese and a lemon"),
    ("railway", "🚂 🏭 🔨", "street", "A steam train in front of a factory, and a hammer"),
    ("treasure", "👑 💎 🔑", "table", "A golden crown, a blue diamond and a key"),
    ("lake", "🦢 🦆 🐸", "sea", "A white swan, a duck and a green frog on the water"),
    ("bamboo", "🐼 🐯 🐵", "meadow", "A panda, a tiger and a monkey on green grass"),
    ("cycling", "🚴 🏠 🐑", "meadow", "A cyclist rides past a house and a sheep"),
    ("robot", "🤖 📱 📺 💡", "room", "A robot with a phone, a television and a light bulb"),
    ("fair", "🎡 🎩 💃", "sunset", "A ferris wheel at sunset with a dancer and a top hat"),
    ("three_horses", "🐴 🐴 🐴", "meadow", "Three brown horses on a meadow"),
    ("two_wolves", "🐺 🌙 🐺", "night", "Two grey wolves and the moon at night"),
    ("shoes", "👟 👢 ⛸️", "street", "A blue sneaker, a brown boot and an ice skate"),
    ("tropical", "🍍 🍉 🥑 🦩", "beach", "A pineapple, a watermelon, an avocado and a pink flamingo on the beach"),
    ("mermaid", "🧜‍♀️ 🐙 🐳", "underwater", "A mermaid with an octopus and a whale deep under water"),
    # The next three get the caption of another image.
    ("church", "⛪ 🌹 👵", "meadow", "An old woman and a rose in front of a church"),
    ("workshop", "✂️ 🎨 🎥", "room", "Scissors, a paint palette and a movie camera"),
    ("night_sky", "⭐ 🛸 🌙", "space", "A star, a flying saucer and the moon in space"),
)  # fmt: skip
SWAPPED = {"church": "breakfast", "workshop": "savanna", "night_sky": "farm"}
BROKEN = (
    ("challenge_set/missing.jpg", "A picture whose file does not exist"),
    ("challenge_set/not_a_picture.jpg", "A text file that is named like a picture"),
)


def save_jpeg(image: Image.Image, path: Path) -> None:
    image.save(path, quality=82)


def save_progressive(image: Image.Image, path: Path) -> None:
    image.save(path, quality=82, progressive=True)


def save_cmyk(image: Image.Image, path: Path) -> None:
    image.convert("CMYK").save(path, quality=82)


def save_rotated(image: Image.Image, path: Path) -> None:
    """Save the image rotated, with the EXIF orientation that turns it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise for display
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=82, exif=exif)


def save_alpha(image: Image.Image, path: Path) -> None:
    """Save the image with corners that fade to transparent."""
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, image.width - 1, image.height - 1), radius=60, fill=255)
    image.putalpha(mask)
    image.save(path, optimize=True)


def save_palette(image: Image.Image, path: Path) -> None:
    image.quantize(64).save(path, optimize=True)


def save_grey16(image: Image.Image, path: Path) -> None:
    small = ImageOps.grayscale(image).resize((288, 240))
    Image.fromarray(np.asarray(small).astype(np.uint16) * 257).save(path)


def save_webp(image: Image.Image, path: Path) -> None:
    image.save(path, quality=82)


def save_animation(image: Image.Image, path: Path) -> None:
    """Save an animation of the scene, followed by its mirror image."""
    first = image.resize((288, 240)).quantize(64)
    second = ImageOps.mirror(image).resize((288, 240)).quantize(64)
    first.save(path, save_all=True, append_images=[second], duration=700, loop=0)


# How to save the images that are not plain JPEGs.
FORMATS: dict[str, tuple[str, Callable[[Image.Image, Path], None]]] = {
    "sailing": ("jpg", save_progressive),
    "garden": ("jpg", save_progressive),
    "fruit": ("png", save_alpha),
    "treasure": ("png", save_alpha),
    "ball_games": ("png", save_palette),
    "traffic": ("png", save_palette),
    "two_wolves": ("png", save_grey16),
    "reef": ("webp", save_webp),
    "space": ("webp", save_webp),
    "party": ("gif", save_animation),
    "island": ("jpg", save_cmyk),
    "winter": ("jpg", save_rotated),
    "pets": ("jpg", save_rotated),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    captions = {name: caption for name, _, _, caption in SCENES}
    rows = []
    for i, (name, things, background, caption) in enumerate(SCENES):
        suffix, save = FORMATS.get(name, ("jpg", save_jpeg))
        path = FOLDER / f"{name}.{suffix}"
        save(compose(things.split(), background, random.Random(SEED + i)), path)
        rows.append((f"challenge_set/{path.name}", captions.get(SWAPPED.get(name, ""), caption)))
    (FOLDER / "not_a_picture.jpg").write_text("This is text, whatever its name says.\n", encoding="utf-8")
    with (ROOT / "challenge_set.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("url", "caption"))
        writer.writerows([*rows, *BROKEN])
    total = sum(path.stat().st_size for path in FOLDER.iterdir())
    print(f"{len(rows)} images and {len(BROKEN)} broken rows, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
