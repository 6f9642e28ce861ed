"""A tokenizer learned from captions: lower-case byte-pair pieces (Sennrich et al. 2016).

Accents and other marks are kept: most scripts distinguish words by them, as in Hindi काला (black) and कला (art).
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

# Marks that do not distinguish words: the dot that a lower-cased İ leaves on its i, and the style of an emoji.
_REDUNDANT = Regex("(?<=i)\u0307|[\ufe00-\ufe0f]")


def learn_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a tokenizer with id 0 for padding and id 1 for unknown tokens.

    Args:
        captions: The training captions.
        vocab_size: Maximum number of pieces to learn; small data sets give fewer, because a piece must occur twice.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(_REDUNDANT, ""), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        limit_alphabet=max(1, vocab_size - 2),
        special_tokens=["[PAD]", "[UNK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer
