"""`python -m text_image_similarity` is the command `text-image-similarity`."""

from .cli import main

if __name__ == "__main__":
    main()
