"""Run the command `text-image-similarity` as `python -m text_image_similarity`."""

from .cli import main

if __name__ == "__main__":
    main()
