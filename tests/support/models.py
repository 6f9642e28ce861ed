"""Models made on the spot: random weights, saved to a folder and loaded through the same path as real ones.

Those of CLIP's and SigLIP's families have one layer a tower, for each costs an export a second; `tests/system/test_full_size.py`
has more.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import pre_tokenizers, processors
from transformers import (
    BaseImageProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    GemmaTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
    TokenizersBackend,
)

START, END = "<|startoftext|>", "<|endoftext|>"


# What ViT-L/14 has other than ViT-B/32.
_LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
_LARGE_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}


def save_clip(folder: Path, *, full_size: bool = False, large: bool = False, layers: int = 12) -> Path:
    """Save a CLIP with random weights: a tiny one with a letter vocabulary, or ViT-B/32, with so many layers and its own, or ViT-L/14."""
    vocab, merges = _clip_vocabulary() if full_size else _letter_vocabulary()
    # Its annotation wants texts; what it hands them to takes pairs alone.
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    special = {"bos_token_id": vocab[START], "eos_token_id": vocab[END], "pad_token_id": vocab[END]}
    text: dict[str, int] = {"vocab_size": len(vocab), **special}
    vision: dict[str, int] = {}
    if large:
        text, vision = text | _LARGE_TEXT, dict(_LARGE_VISION)
    elif full_size:
        text["num_hidden_layers"] = vision["num_hidden_layers"] = layers
    else:
        text |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
        vision = {**text, "image_size": 32, "patch_size": 8}
    side = 224 if full_size else 32
    dim = 768 if large else 512 if full_size else 16
    torch.manual_seed(7)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim))
    # Random towers give nearly equal vectors for all captions; larger embeddings pull them apart.
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight.mul_(20)
        model.vision_model.embeddings.patch_embedding.weight.mul_(5)
    return _save(folder, model, tokenizer, CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side))


def save_siglip(folder: Path, *, full_size: bool = False) -> Path:
    """Save a SigLIP with random weights and a sentencepiece vocabulary of a few dozen pieces: a tiny one, or one of the base size."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red dog on the green grass", "two blue cats", "the quick brown fox jumps over it"]),
        model_prefix=str(folder / "spiece"),
        vocab_size=30,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    if full_size:
        torch.manual_seed(7)
        tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=64)
        processor = SiglipImageProcessorPil(size={"height": 224, "width": 224})
        return _save(folder, SiglipModel(SiglipConfig()), tokenizer, processor)
    return _save_siglip(folder, SiglipTokenizer(str(folder / "spiece.model"), model_max_length=16), size=30)


def save_siglip2(folder: Path, kind: type[TokenizersBackend] = GemmaTokenizer, **options: bool) -> Path:
    """Save a tiny fixed-resolution SigLIP 2 with random weights: a SigLIP whose tokenizer is built like Gemma's, of letters."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *map(chr, range(33, 127))]
    names += [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {name: i for i, name in enumerate(names)}
    tokenizer = kind(vocab=vocab, merges=[], padding_side="right", **options)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A <eos>", None, [("<eos>", 1)])
    return _save_siglip(folder, tokenizer, size=len(vocab))


def _save_siglip(folder: Path, tokenizer: PreTrainedTokenizerBase, *, size: int) -> Path:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(7)
    model = SiglipModel(
        SiglipConfig(
            text_config={**shape, "vocab_size": size, "max_position_embeddings": 16, "projection_size": 32},
            vision_config={**shape, "image_size": 32, "patch_size": 8},
        )
    )
    return _save(folder, model, tokenizer, SiglipImageProcessorPil(size={"height": 32, "width": 32}))


def _save(folder: Path, *parts: PreTrainedModel | PreTrainedTokenizerBase | BaseImageProcessor) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder


def _letter_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(letter + "</w>" for letter in letters), START, END]
    return {name: i for i, name in enumerate(names)}, []


def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read CLIP's byte-pair vocabulary from the copy that open_clip carries, in its order: bytes, words, merges."""
    import open_clip

    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    names = [*_byte_order(), *(b + "</w>" for b in _byte_order()), *(a + b for a, b in merges), START, END]
    return {name: i for i, name in enumerate(names)}, merges


def _byte_order() -> Iterator[str]:
    """Yield the characters that stand for the 256 bytes: printable ones as themselves and first (GPT-2's order)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    yield from map(chr, printable)
    yield from (chr(256 + i) for i in range(256 - len(printable)))
