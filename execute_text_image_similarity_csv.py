"""Score challenge_set.csv into challenge_scored.csv, or any two paths given; `--help` lists the options."""

from pathlib import Path

from text_image_similarity.cli import run_script

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    run_script(HERE / "challenge_set.csv", HERE / "challenge_scored.csv")
