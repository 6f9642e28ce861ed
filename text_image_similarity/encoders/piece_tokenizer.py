"""Convert SigLIP 1's sentencepiece model and its rules to a tokenizer of `tokenizers`, the kind that browsers can run.

The rules are those of `pieces`, each as a step of a tokenizer: captions are lower-cased, punctuation is removed,
runs of spaces are collapsed, and a caption begins with a space. There is one difference: after the text of a special
token in a caption there is a space that `pieces` does not insert.
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from ..errors import ModelError
from .piece_rules import AddedPiece, PieceFile

_SPACE = "▁"  # in sentencepiece
_SPACES = Regex("[\\s\x1c-\x1f\x85]+")  # what Python treats as white space
_PUNCTUATION = Regex(r"[!-/:-@\[-`{-~]")


def piece_tokenizer(file: PieceFile) -> Tokenizer:
    """Return a tokenizer that reads captions as `piece_tokens` does, and cuts them at the context length.

    Raises:
        ModelError: The sentencepiece model is not a unigram model like SigLIP's.
    """
    from transformers.utils import sentencepiece_model_pb2_new as protobuf  # sentencepiece's own needs a newer protobuf

    model, rules = protobuf.ModelProto.FromString(file.model), file.rules
    if model.trainer_spec.model_type != model.trainer_spec.UNIGRAM:
        raise ModelError("its tokenizer must be a unigram model, like SigLIP's")
    scores = [(piece.piece, piece.score) for piece in model.pieces]
    tokenizer = Tokenizer(Unigram(scores, unk_id=model.trainer_spec.unk_id))
    charsmap = model.normalizer_spec.precompiled_charsmap
    steps = [
        normalizers.Replace(_SPACE, " "),
        *([normalizers.Lowercase()] if rules.lower else []),
        normalizers.Replace(_PUNCTUATION, ""),
        normalizers.Replace(_SPACES, " "),
        *([normalizers.Precompiled(charsmap)] if charsmap else []),
        normalizers.Replace(Regex(" +"), " "),
        normalizers.Strip(),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, "always", split=False)
    end = tokenizer.id_to_token(rules.end)
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {end}", None, [(end, rules.end)])
    if not rules.split_special:
        tokenizer.add_tokens([_added(piece) for piece in rules.added])
    tokenizer.enable_truncation(rules.context_length)
    return tokenizer


def _added(piece: AddedPiece) -> AddedToken:
    return AddedToken(
        piece.text,
        lstrip=piece.lstrip,
        rstrip=piece.rstrip,
        single_word=piece.single_word,
        normalized=False,
        special=piece.special,
    )
