"""Captions are read from an export's files as the source's own library reads them; `make endurance` tries 10,000."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, Siglip2Tokenizer

from tests.support.models import save_siglip2
from text_image_similarity import Config, ModelError, load_encoder
from text_image_similarity.encoders.open_clip_files import OpenClipFiles
from text_image_similarity.encoders.open_clip_tokens import open_clip_tokens
from text_image_similarity.encoders.panics import panics_are_errors
from text_image_similarity.encoders.protocols import CutIds
from text_image_similarity.encoders.token_files import open_tokens, write_tokens
from text_image_similarity.encoders.tokens import Tokens, tokens_of
from text_image_similarity.encoders.two_tower import TwoTowerEncoder
from text_image_similarity.encoders.zipped import mini_folder
from text_image_similarity.pipeline.encoding import encode_each

CAPTIONS = int(os.environ.get("CAPTIONS", "150"))
SPECIAL = [
    *("<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>", "</s>", "<unk>", "<pad>", "<eos>", "<bos>"),
    *("[PAD]", "[UNK]", "<mask>", "▁", "▁▁", " ", "\u00a0", "&amp;", "&lt;", "</", "s>", "<0x0A>", "İ", "ﬁ", "ß", "\u0301"),
]  # fmt: skip
_PLANES = [(0x20, 0x7F), (0x00, 0x20), (0x80, 0x300), (0x300, 0x3000), (0x3000, 0xD800), (0xE000, 0x10000)]
_PLANES += [(plane << 16, (plane + 1) << 16) for plane in range(1, 17)]


def fuzzed(count: int) -> list[str]:
    """Return captions of 0 to 5,000 characters: words, special tokens, control characters, every plane of Unicode."""
    rng = random.Random(21)

    def part() -> str:
        kind = rng.random()
        if kind < 0.3:
            return rng.choice(SPECIAL)
        if kind < 0.6:
            return rng.choice(["a Red dog", "two  blue cats ", "jumps!", "it's", "_x_", "Fox.", "\t\n", "1234"])
        low, high = _PLANES[0] if rng.random() < 0.4 else rng.choice(_PLANES)
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.choice([1, 1, 3, 9])))

    most = [3, 3, 3, 12, 12, 60, 600]
    return ["", *("".join(part() for _ in range(rng.randrange(rng.choice(most) + 1)))[:5000] for _ in range(count - 1))]


def rows_of(tokens: Tokens, texts: Sequence[str]) -> list[list[int]]:
    return [list(row) for row in tokens.encode(texts)]


def reopened(encoder: TwoTowerEncoder, folder: Path) -> Tokens:
    facts = json.loads(json.dumps(write_tokens(encoder, folder)))
    return open_tokens(folder, facts)


def loaded(model: Path | str) -> TwoTowerEncoder:
    encoder = load_encoder(Config(model=model, device="cpu", backend="torch"))
    assert isinstance(encoder, TwoTowerEncoder)
    return encoder


@pytest.mark.filterwarnings("ignore:This sequence already has")
@pytest.mark.parametrize("model", ["tiny_clip", "tiny_siglip"])
def test_captions_are_read_as_transformers_does(model: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(model)
    encoder, texts = loaded(folder), fuzzed(CAPTIONS)
    found = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=encoder.context_length)
    tokens = reopened(encoder, tmp_path)
    assert rows_of(tokens, texts) == found["input_ids"]
    assert (tokens.whole, tokens.context_length) == (model == "tiny_siglip", encoder.context_length)
    assert (tmp_path / ("spiece.model" if model == "tiny_siglip" else "tokenizer.json")).is_file()


def test_siglips_pieces_are_read_from_a_file_for_browsers(tiny_siglip: Path, tmp_path: Path) -> None:
    encoder = loaded(tiny_siglip)
    facts = write_tokens(encoder, tmp_path, web=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    # Not what stands behind a special token, nor accents that join: docs/deploy-a-model.md
    texts = [text for text in fuzzed(CAPTIONS) if not re.search("</s>|<unk>|[\u0300-\u036f]", text)]
    tokens, length = open_tokens(tmp_path, facts), encoder.context_length
    found, expected = (kind.padded(kind.encode(texts), length).tolist() for kind in (tokens, encoder.tokens))
    assert found == expected
    assert len(texts) > CAPTIONS / 3


def test_siglip_2_is_read_so_too(tmp_path: Path) -> None:
    encoder, texts = loaded(save_siglip2(tmp_path / "model", Siglip2Tokenizer)), fuzzed(CAPTIONS)
    theirs = Siglip2Tokenizer.from_pretrained(tmp_path / "model")
    assert rows_of(reopened(encoder, tmp_path), texts) == theirs(texts, truncation=True, max_length=16)["input_ids"]


def test_minis_captions_are_read_from_a_copy(tmp_path: Path) -> None:
    encoder, texts = loaded("mini"), fuzzed(CAPTIONS)
    assert rows_of(reopened(encoder, tmp_path), texts) == rows_of(encoder.tokens, texts)


@pytest.mark.parametrize("clean", ["lower", "canonicalize"])
def test_open_clips_captions_are_read_from_a_copy(clean: str, tmp_path: Path) -> None:
    settings = {"text_cfg": {"context_length": 20, "tokenizer_kwargs": {"clean": clean}}}
    tokens, _ = open_clip_tokens(OpenClipFiles("tiny", settings, weights=tmp_path))
    encoder, texts = replace(loaded("mini"), tokens=tokens, context_length=20), fuzzed(CAPTIONS)
    assert rows_of(reopened(encoder, tmp_path), texts) == rows_of(tokens, texts)


@pytest.mark.parametrize("stated", ["padding", "truncation"])
def test_a_files_own_padding_and_overlap_are_not_followed(stated: str, tmp_path: Path) -> None:
    encoder, texts = loaded("mini"), fuzzed(50)
    facts = write_tokens(encoder, tmp_path)
    file = tmp_path / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    fixed = {"strategy": {"Fixed": 100_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    tokenizer[stated] = {
        "padding": {**fixed, "pad_type_id": 0, "pad_token": "[PAD]"},
        "truncation": {"direction": "Right", "max_length": 1 << 20, "strategy": "OnlySecond", "stride": (1 << 20) - 3},
    }[stated]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    tokens = open_tokens(tmp_path, facts)
    assert tokens.context_length == encoder.context_length
    assert rows_of(tokens, texts) == rows_of(encoder.tokens, texts)


def test_a_tokenizer_without_files_is_refused(tmp_path: Path) -> None:
    encoder = replace(loaded("mini"), tokens=Tokens(lambda texts: [[1]] * len(texts), 0, 8))
    with pytest.raises(ModelError, match="cannot be saved as one file"):
        write_tokens(encoder, tmp_path)


def test_rows_that_are_cut_say_so(tiny_siglip: Path, tmp_path: Path) -> None:
    short, long = reopened(loaded(tiny_siglip), tmp_path).encode(["a dog", "the quick brown fox " * 9])
    assert (isinstance(short, CutIds), isinstance(long, CutIds), len(long)) == (False, True, 16)


def test_a_caption_that_makes_the_tokenizer_panic_fails_alone() -> None:
    """The library's panics are not of the class Exception; a stranger's pattern that takes too long is one cause."""
    tokenizer = Tokenizer.from_file(str(mini_folder() / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated")
    tokens = tokens_of(tokenizer, pad=0)
    found = encode_each(lambda texts: np.array([[float(len(row))] for row in tokens.encode(texts)]), ["a", "x" * 40])
    assert isinstance(found[0], np.ndarray)
    assert str(found[1]).startswith("encoder_error: RuntimeError: the model's tokenizer cannot read this text: ")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_request_to_stop_is_no_panic(stop: type[BaseException]) -> None:
    with pytest.raises(stop), panics_are_errors():
        raise stop
