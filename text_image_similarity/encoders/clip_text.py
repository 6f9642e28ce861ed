"""Tokenize captions for CLIP and SigLIP models, and select the token whose state represents the caption.

CLIP accepts captions padded to any length, and uses the state of the token with which its tokenizer ends each caption.
That token's id comes from the tokenizer, because `config.json` is often wrong. Folders from before July 2023 state 2,
and `transformers` then uses the highest id, which is a different token if tokens were added to the vocabulary.

SigLIP was trained on lower-case captions padded to the full length. SigLIP 1's tokenizer lower-cases captions itself.
The fixed-resolution SigLIP 2 models come with Gemma's tokenizer, which keeps case, and `transformers` does not
lower-case captions for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any

from tokenizers import Tokenizer, normalizers
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from ..errors import ModelError
from .last_layer import at_ends, give_one_token, token_of
from .panics import panics_are_errors
from .piece_rules import AddedPiece, PieceFile, PieceRules
from .pieces import piece_tokens
from .token_growth import check_steps, growth_of
from .tokens import Ids, Tokens, copy_tokenizer, ids_of, in_groups, tokens_of

_PROBES = (
    "A photo of 2 dogs, it's RAINING",
    "",
    " ",
    "Ünïcode — naïve café 日本語 _x_ </s> <eos>b <pad>",
    "word " * 300,
)
Features = Callable[[Any, Tensor], Tensor]  # (model, token ids (n, t)) -> features (n, embed_dim)


def check_tokenizer(name: str, tokenizer: Any) -> None:
    """Check that a tokenizer distinguishes words, and does not make captions much longer.

    Raises:
        ModelError: The tokenizer gives all words the same id; `transformers` creates such a tokenizer if its files are
            missing.
        ValueError: The tokenizer could make captions too long.
    """
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        check_steps(fast)
    if len(set(tokenizer("a red dog", add_special_tokens=False)["input_ids"])) < 2:
        raise ModelError(f"{name} has no usable tokenizer: it gives all words the same id; are its files missing?")


def clip_text(name: str, network: Any, tokenizer: Any) -> tuple[Tokens, Features]:
    """Return the `Tokens` of a `CLIPModel`, and the function that turns padded token ids into text features.

    Args:
        name: Name of the model, for error messages.
        network: The model.
        tokenizer: Tokenizer of the model.

    Raises:
        ModelError: The tokenizer does not end captions with an end token, or has tokens that the model does not know.
    """
    length = network.config.text_config.max_position_embeddings
    own = copy_tokenizer(tokenizer.backend_tokenizer, length)  # cutting keeps the end token
    end = _end_token(name, own)
    known = network.text_model.get_input_embeddings().num_embeddings
    if (highest := max(own.get_vocab().values())) >= known:
        raise ModelError(
            f"the tokenizer of {name} has token ids up to {highest}, but the text tower has only {known} embeddings; "
            "call resize_token_embeddings and train the new ones, or use the tokenizer that the model was trained with"
        )
    return tokens_of(own, pad=end), partial(_at_end, end)


def _end_token(name: str, tokenizer: Tokenizer) -> int:
    last = {tuple(tokenizer.encode(text).ids[-1:]) for text in ("a", "red dog", "")}
    if len(last) != 1 or () in last:
        raise ModelError(
            f"the tokenizer of {name} does not end captions with an end-of-text token, which a CLIP model needs; "
            "use the tokenizer that the model was trained with"
        )
    return last.pop()[0]


def _at_end(end: int, network: Any, ids: Tensor) -> Tensor:
    tower = network.text_model
    hidden = tower.embeddings(input_ids=ids)  # (n, t, width)
    # Padding needs no mask: the tower is causal, so the first end token never attends to what follows it.
    mask = create_causal_mask(
        config=tower.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
    )  # None if attention uses `is_causal` instead
    *first, last = tower.encoder.layers
    for layer in first:
        hidden = layer(hidden, mask, is_causal=True)
    token, seen = at_ends(hidden, (ids == end).int().argmax(dim=-1))
    features: Tensor = network.text_projection(tower.final_layer_norm(token_of(last, hidden, token, seen))[:, 0])
    return features


def siglip_text(name: str, network: Any, tokenizer: Any) -> tuple[Tokens, Features]:
    """Return the `Tokens` of a `SiglipModel`, and the function that turns padded token ids into text features.

    Args:
        name: Name of the model, for error messages.
        network: The model.
        tokenizer: Tokenizer of the model. A fast tokenizer is changed so that it lower-cases captions, unless its
            `do_lower_case` is false.

    Raises:
        ModelError: The tokenizer has no padding token.
        ValueError: The tokenizer could make captions too long.
    """
    length, pad = network.config.text_config.max_position_embeddings, tokenizer.pad_token_id
    if pad is None:
        raise ModelError(f"the tokenizer of {name} has no padding token, which a SigLIP model needs")
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None and tokenizer.init_kwargs.get("do_lower_case") is not False:
        fast.normalizer = normalizers.Sequence(list(filter(None, (normalizers.Lowercase(), fast.normalizer))))
        check_steps(fast)
    give_one_token(network.text_model, -1)
    theirs = _their_tokens(tokenizer, length, pad)
    for own in (_fast_tokens(tokenizer, length, pad), _piece_tokens(tokenizer, length, pad)):
        if own is not None and own.encode(_PROBES) == theirs.encode(_PROBES):
            return own, _at_last
    return theirs, _at_last


def _fast_tokens(tokenizer: Any, length: int, pad: int) -> Tokens | None:
    """Return the `Tokens` of a copy of a fast tokenizer, which does not change between calls; None for a slow one."""
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is None:
        return None
    return tokens_of(copy_tokenizer(fast, length), pad=pad).filled(length)


def _piece_tokens(tokenizer: Any, length: int, pad: int) -> Tokens | None:
    """Return `Tokens` that read captions as SigLIP 1's tokenizer does, without using it; None for other tokenizers."""
    if type(tokenizer).__name__ != "SiglipTokenizer" or tokenizer.sp_model_kwargs:
        return None
    special = set(tokenizer.all_special_tokens)
    added = [
        AddedPiece(token.content, i, token.content in special, token.lstrip, token.rstrip, token.single_word)
        for i, token in sorted(tokenizer.added_tokens_decoder.items())
    ]
    rules = PieceRules(
        added=tuple(added),
        unknown=str(tokenizer.unk_token),
        end=tokenizer.eos_token_id,
        pad=pad,
        lower=bool(tokenizer.do_lower_case),
        split_special=bool(tokenizer.split_special_tokens),
        context_length=length,
    )
    return piece_tokens(PieceFile(tokenizer.sp_model.serialized_model_proto(), rules))


def _their_tokens(tokenizer: Any, length: int, pad: int) -> Tokens:
    """Return the `Tokens` of a `transformers` tokenizer, which is called under a lock."""
    # Truncation is part of the tokenizer's state, so calls take turns. A fork may copy a held lock, so each process has
    # its own.
    locks: dict[int, Lock] = {}
    growth = growth_of(getattr(tokenizer, "backend_tokenizer", None))

    @panics_are_errors()
    def encode(texts: Sequence[str]) -> list[Ids]:
        with locks.setdefault(os.getpid(), Lock()):
            return [row for some in in_groups(texts, growth) for row in ids(some)]

    def ids(some: list[str]) -> list[Ids]:
        found = tokenizer(some, truncation=True, max_length=length)
        rows: list[Ids] = found["input_ids"] if found.encodings is None else [ids_of(one) for one in found.encodings]
        return rows

    return Tokens(encode, pad, length, whole=True)


def _at_last(network: Any, ids: Tensor) -> Tensor:
    # No attention mask: SigLIP was trained without one.
    return pooled(network.get_text_features(input_ids=ids))


def pooled(output: Any) -> Tensor:
    """Return the features (n, embed_dim) from the output of a `transformers` model."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features
