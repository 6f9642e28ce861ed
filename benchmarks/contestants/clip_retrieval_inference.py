"""clip-retrieval's inference over WebDataset shards, as img2dataset writes them, then the cosine of its embeddings.

The reader, mapper and writer run as in `clip-retrieval inference`; the command's logger is omitted, because the process
that it starts takes longer than a small benchmark. Each reader process gets its own shard, because it fails otherwise.
The time to write the shards, which is img2dataset's work, is not counted. The model is open_clip's; embeddings are
stored in float16. On 2 cores, batches of 16 without a reader process are fastest. clip-retrieval needs NumPy 1, and so
a separate environment (`--clip-retrieval-python`).
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from all_clip import load_clip
from clip_retrieval.clip_inference.mapper import ClipMapper
from clip_retrieval.clip_inference.reader import WebdatasetReader
from clip_retrieval.clip_inference.writer import NumpyWriter
from safetensors.torch import load_file

from ..inputs import BUILD, MODEL, Row
from ..meter import Meter
from . import Score, Timed
from .open_clip_loop import NAME, renamed


def load(*, batch_size: int, readers: int) -> Score:
    """Write the weights to the place where open_clip reads them, and load them."""
    weights = BUILD / "open_clip.pt"
    torch.save(renamed(load_file(MODEL / "model.safetensors")), weights)
    name = f"open_clip:{NAME}/{weights}"
    _, preprocess, tokenizer = load_clip(clip_model=name, use_jit=False)
    mapper = ClipMapper(
        enable_image=True,
        enable_text=True,
        enable_metadata=False,
        use_mclip=False,
        clip_model=name,
        use_jit=False,
        mclip_model="",
    )

    def score(rows: list[Row]) -> Timed:
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            shards = write_shards(Path(folder), rows, max(1, readers))
            with Meter() as meter:
                writer = NumpyWriter(0, folder, True, True, False, 1)
                reader = WebdatasetReader(lambda urls: urls, preprocess, tokenizer, shards, batch_size, readers)
                for batch in reader:
                    writer(mapper(batch))
                writer.flush()
                scores = read_scores(Path(folder))
            return Timed(scores, meter.seconds, meter.cpu_seconds)

    return score


def write_shards(folder: Path, rows: list[Row], count: int) -> list[str]:
    """Write images and captions to tar files, and return the paths of the files."""
    shards = [folder / f"{shard}.tar" for shard in range(count)]
    for shard, path in enumerate(shards):
        with tarfile.open(path, "w") as tar:
            for number in range(shard, len(rows), count):
                _add(tar, f"{number:06}.jpg", Path(rows[number].path).read_bytes())
                _add(tar, f"{number:06}.txt", rows[number].caption.encode())
    return [str(path) for path in shards]


def read_scores(folder: Path) -> list[float]:
    """Read the embeddings that a run wrote, and return the cosines in the order of the rows."""
    names = pd.read_parquet(folder / "metadata" / "metadata_0.parquet")["image_path"].str[-6:]
    images = np.load(folder / "img_emb" / "img_emb_0.npy").astype(np.float32)
    texts = np.load(folder / "text_emb" / "text_emb_0.npy").astype(np.float32)
    scores: list[float] = (images * texts).sum(axis=1)[names.argsort()].tolist()
    return scores


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
