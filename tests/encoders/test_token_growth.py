"""Tokenizers that would make captions far longer."""

from __future__ import annotations

import dataclasses
import json
import time
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors
from transformers import AutoConfig, AutoTokenizer
from transformers.models.qwen2 import tokenization_qwen2 as qwen2
from transformers.models.qwen3_5 import tokenization_qwen3_5 as qwen3_5
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece_model_pb2

from tests.encoders.test_load import copy_of
from tests.support.open_clip_models import save_open_clip
from text_image_similarity import Config, ModelError, ModelNameError, load_encoder
from text_image_similarity.encoders import clip, clip_text, hub, open_clip_tokens, token_growth
from text_image_similarity.encoders import tokens as tokens_module
from text_image_similarity.encoders.clip import load_clip
from text_image_similarity.encoders.piece_chains import check_chains
from text_image_similarity.encoders.piece_tokenizer import piece_tokenizer
from text_image_similarity.encoders.pieces import piece_tokens
from text_image_similarity.encoders.token_growth import (
    check_pieces,
    check_steps,
    check_tokenizers,
    growth_of,
    tokenizer_from,
)
from text_image_similarity.encoders.tokens import tokens_of
from text_image_similarity.encoders.zipped import mini_folder
from text_image_similarity.training.vocabulary import learn_tokenizer

_PLAIN = json.loads(Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]")).to_str())
_PADDING = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
_GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def text(*steps: dict[str, Any]) -> str:
    return json.dumps({**_PLAIN, "normalizer": {"type": "Sequence", "normalizers": list(steps)}})


def charsmap(letters: int) -> bytes:
    """Return rules of sentencepiece that put a text of so many letters in the place of others."""
    return (4).to_bytes(4, "little") + bytes(4) + b"x" * letters + b"\0" + b"y\0"


@pytest.mark.parametrize(
    "steps",
    [
        [replace("a" * 100)],
        [replace("aaa")] * 6,
        [replace("a" * 8)] * 3,
        [replace("a", Regex="")] * 11,
        [replace("a", String="")] * 11,
        [{"type": "ByteLevel"}] * 6,
        [{"type": "Prepend", "prepend": "a" * 9}],
        [{"type": "NFKD"}, replace("\ufdfa", String="\u0644")] * 3,
        [{"type": "Lowercase"}, replace("\u0130", String="i")] * 11,
        [{"pattern": {"String": "a"}, "content": "a" * 100}],
        [{"type": "Precompiled", "precompiled_charsmap": b64encode(charsmap(2000)).decode()}],
    ],
)
def test_normalizers_that_could_grow_a_caption_are_refused(steps: list[dict[str, Any]]) -> None:
    for nested in (steps, [{"type": "Sequence", "normalizers": steps}]):
        with pytest.raises(ValueError, match="far longer"):
            tokenizer_from(text(*nested))


def test_pre_tokenizers_that_could_grow_a_caption_are_refused() -> None:
    steps = [
        {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
        {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": False},
    ]
    with pytest.raises(ValueError, match="far longer"):
        tokenizer_from(json.dumps({**_PLAIN, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps * 11}}))


def test_those_of_published_models_are_not() -> None:
    steps = [{"type": "Prepend", "prepend": "\u2581"}, replace("\u2581", String=" "), replace(" ", Regex="\\s+")]
    steps += [replace(each, String="x") for each in ("''", "...", "<<")]
    assert tokenizer_from(text(*steps)).encode("a").ids


def test_the_growth_of_published_models_is_known(tiny_siglip: Path, tiny_clip: Path) -> None:
    assert growth_of(Tokenizer.from_file(str(tiny_clip / "tokenizer.json"))) == 30
    tokens = load_encoder(Config(model=tiny_siglip, device="cpu", backend="torch")).tokens  # type: ignore[attr-defined]
    check_steps(piece_tokenizer(tokens.pieces))
    check_steps(learn_tokenizer(["a dog"], 100))
    rules = {
        "type": "Precompiled",
        "precompiled_charsmap": b64encode(charsmap(18)).decode(),
    }  # sentencepiece's nmt_nfkc
    metaspace = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    for steps, growth in (
        ([rules, replace(" ", Regex=" {2,}")], 36),
        ([{"type": "Lowercase"}, rules, replace(" ", Regex=" +"), replace("", Regex="[!-/]")], 72),  # SigLIP
    ):
        stated = {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": metaspace}
        assert growth_of(tokenizer_from(json.dumps({**_PLAIN, **stated}))) == growth


def step(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False, **more}


@pytest.mark.parametrize(("normalizers", "growth"), [(["NFKC"], 90), (["NFKC", "Lowercase"], 180)])
def test_ordinary_tokenizers_that_people_train_are_not_refused(normalizers: list[str], growth: int) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    steps = {"type": "Sequence", "normalizers": [{"type": each} for each in normalizers]}
    tokenizer = tokenizer_from(json.dumps({**_PLAIN, "normalizer": steps, "pre_tokenizer": byte_level}))
    assert growth_of(tokenizer) == growth


def unigram(pieces: list[str], *steps: dict[str, Any]) -> str:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], *([piece, -1.0] for piece in pieces)]}
    return json.dumps({**json.loads(text(*steps)), "model": {**model, "byte_fallback": False}})


def test_pieces_that_begin_with_one_another_are_limited(tiny_siglip: Path) -> None:
    """A vocabulary of 513 kB made a caption of a hundred letters take 6.6 seconds."""
    nested = ["a" * length for length in range(1, 1001)]
    times = [replace("a" * 8, Regex="[ab]"), replace("a" * 8, Regex="[ab]")]
    for pieces, steps in ((nested, []), (nested[:230], []), (nested[:100], times), (["a" * (1 << 19)], [])):
        with pytest.raises(ValueError, match="long pieces that begin with one another, whose search could take too"):
            tokenizer_from(unigram(pieces, *steps))
    model = sentencepiece_model_pb2.ModelProto.FromString((tiny_siglip / "spiece.model").read_bytes())
    for piece in nested:
        model.pieces.add(piece=piece, score=-1)
    with pytest.raises(ValueError, match="long pieces that begin with one another"):
        check_pieces(model.SerializeToString())


def test_the_rows_of_letters_in_published_vocabularies_are_not_too_long() -> None:
    """Sentencepiece makes pieces of up to 16 letters, unless rows of spaces are added to them."""
    rows = [letter * length for letter in ("=", "-", "\u4e00") for length in range(1, 17)]
    rows += ["\u2581" * length for length in range(1, 65)]
    assert tokenizer_from(unigram(rows, {"type": "NFKC"}, {"type": "Lowercase"})).encode("==").ids


def test_a_large_vocabulary_is_compared_in_little_time() -> None:
    pieces = [f"{number * 7919 % 256_000:x}" for number in range(256_000)]
    start = time.process_time()
    check_chains(pieces, 256)
    assert time.process_time() - start < 3  # 0.2 seconds


@pytest.mark.parametrize(
    "more", [[replace("b")] * 49, [{"type": "Strip", "strip_left": True, "strip_right": True}] * 97]
)
def test_the_steps_of_a_tokenizer_are_few(more: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="has more than 96 steps and patterns"):
        tokenizer_from(text(*more))


PUBLISHED = [
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",  # CLIP
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",  # open_clip
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2, if it is written out
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",  # Llama 3
    *(qwen2.PRETOKENIZE_REGEX, qwen3_5.PRETOKENIZE_REGEX),
    *(" {2,}", r"\s{2,}|[\n\r\t]", r"\s+", " +", r"\n", r"[\n\r\t]"),  # T5, XLM-R, NLLB
    *("[\\s\x1c-\x1f\x85]+", r"[!-/:-@\[-`{-~]", "(?<=i)\u0307|[\ufe00-\ufe0f]"),  # our own
]


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_the_patterns_of_published_models_take_linear_time(pattern: str) -> None:
    tokenizer = tokenizer_from(json.dumps({**_PLAIN, "pre_tokenizer": step(pattern)}))
    tokenizer_from(text(replace(" ", Regex=pattern)))
    assert tokenizer.pre_tokenizer is not None
    for each in (" ", "\n ", "a", "A", "'", "1", "!", "\u02b0", " \n  "):  # half a minute and more in quadratic time
        start = time.process_time()
        tokenizer.pre_tokenizer.pre_tokenize_str(each * 100_000)
        assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "pattern",
    [
        *(".?" * 60 + "(?=[^a-z])[a-z]", "(x+x+)+y", "a+b", "a*[ab]", ".*x", "a?a?a?a?b", "a{2,}b", r"\s*[\r\n]+|x"),
        *(
            "(?:a{9}){9}",
            "a{1000}",
            "a++",
            "a+?",
            "a{2}+",
            "(a)",
            r"(a)\1",
            r"\b",
            "^a",
            "a$",
            "(?=a)",
            r"\k<a>",
            "[a[b]+]",
        ),
        *(
            "a" * 1001,
            "[]a]",
            "[^]a]",
            "a|b(",
            r"\x{41}",
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)+x",
            "a+(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        ),
        r"a|\s*[\r\n]+|\s+(?!\S)|\s+|b",
    ],
)
def test_a_pattern_that_could_take_long_is_refused_before_it_is_compiled(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_growth, "Tokenizer", None)
    split, decoder = step(pattern), {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}
    for stated in (
        {"pre_tokenizer": split},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]}},
        {"normalizer": [{"Regex": pattern}, ""]},
        {"decoder": decoder},
    ):
        with pytest.raises(ValueError, match=r"the tokenizer looks for .* which could take too long"):
            tokenizer_from(json.dumps({**_PLAIN, **stated}))


@pytest.mark.parametrize(
    "patterns",
    [
        ["[ab]{0,8}" + ".{9}" * 240 + r"\d"],
        ["a?.{9}.{9}.{9}.{9}x"] * 2,
        ["|".join(["a{9}b"] * 11)],
        ["[ab]{0,8}" + "a?" * 9 + "b{9}x"],
    ],
)
def test_patterns_that_read_many_letters_for_each_letter_are_refused(patterns: list[str]) -> None:
    """With what makes captions 64 times longer, the first takes 1.4 seconds for a hundred letters."""
    steps = [step(pattern) for pattern in patterns]
    with pytest.raises(ValueError, match=r"many or long texts, which could take too long|simple kind"):
        tokenizer_from(json.dumps({**_PLAIN, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}))


@pytest.mark.parametrize("pattern", ["a" * 101, "\U00020000" * 26])
def test_long_texts_that_are_looked_for_count_in_bytes(pattern: str) -> None:
    assert tokenizer_from(text(replace("", String=pattern[:25]))).encode("a").ids
    with pytest.raises(ValueError, match="looks for many or long texts"):
        tokenizer_from(text(replace("", String=pattern)))
    with pytest.raises(ValueError, match="looks for many or long texts"):
        tokenizer_from(text(*[replace("", String=pattern[:25])] * 6))


def test_long_texts_that_are_looked_for_are_not_called_expressions() -> None:
    with pytest.raises(ValueError, match="looks for many or long texts, which could take too long; use another"):
        tokenizer_from(text(*[replace("x", String=f"{number:0300}") for number in range(4)]))


def test_a_tokenizer_says_everything_once() -> None:
    twice = f'{{"pre_tokenizer": {json.dumps(step("(x+x+)+y"))}, {json.dumps(_PLAIN)[1:]}'
    assert json.loads(twice)["pre_tokenizer"] is None
    with pytest.raises(ValueError, match="two members of an object have the same name"):
        tokenizer_from(twice)


def template(single: list[str], *ids: int, pair: list[str] | None = None) -> dict[str, Any]:
    """Return a post-processor; its pieces are `A`, `B` and `s`, a special token with some ids."""

    def piece(name: str) -> dict[str, Any]:
        return {"SpecialToken" if name == "s" else "Sequence": {"id": name, "type_id": 0}}

    special = {"s": {"id": "s", "ids": list(ids), "tokens": ["[UNK]"] * len(ids)}}
    pieces = {"single": [piece(name) for name in single], "pair": [piece(name) for name in pair or ["A", "B"]]}
    return {"type": "TemplateProcessing", **pieces, "special_tokens": special if ids else {}}


@pytest.mark.parametrize(
    "steps",
    [
        [template(["A", "A"])],
        [template(["A"] * 30)],
        [template(["A", "s", "A"], 0)],
        [template(["A"], pair=["A", "B", "A"])],
        [template(["A", *["s"] * 17], 0)],
        [template(["s", "A"], *[0] * 1000)],
        [template(["s", "A", "s"], 0)] * 9,
        [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}] * 99,
    ],
)
def test_post_processors_that_could_grow_a_caption_are_refused(steps: list[dict[str, Any]]) -> None:
    for nested in (steps, [{"type": "Sequence", "processors": steps}]):
        processor = {"type": "Sequence", "processors": nested}
        with pytest.raises(ValueError, match="far longer"):
            tokenizer_from(json.dumps({**_PLAIN, "post_processor": processor}))


def test_post_processors_of_published_models_are_not() -> None:
    byte_level = processors.ByteLevel()
    for processor in (
        byte_level,
        processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1)),  # Chinese-CLIP, ALIGN
        processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),  # AltCLIP
        processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)]),  # XLM-R
        processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)]),  # T5, SigLIP
        processors.TemplateProcessing("en $A </s>", "en $A $B </s>", [("en", 3), ("</s>", 2)]),  # NLLB
        processors.Sequence(
            [byte_level, processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])]
        ),
    ):
        tokenizer = Tokenizer.from_str(json.dumps(_PLAIN))
        tokenizer.post_processor = processor
        assert tokenizer_from(tokenizer.to_str()).encode("a").ids


@pytest.mark.parametrize("key", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_what_is_written_around_letters_is_short(key: str) -> None:
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    model = {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": True, key: "x" * 8}
    assert tokenizer_from(json.dumps({**_PLAIN, "model": model})).encode("ab").ids
    with pytest.raises(ValueError, match="far longer"):
        tokenizer_from(json.dumps({**_PLAIN, "model": {**model, key: "x" * 9}}))
    grown = Tokenizer(models.BPE({"x": 0}, [], **{key: "x" * 9}))
    with pytest.raises(ValueError, match="far longer"):
        check_steps(grown)


def test_words_are_looked_up_part_by_part_only_if_they_are_short() -> None:
    model = {"type": "WordPiece", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    for most, fits in ((100, True), (257, False), (10**9, False)):
        stated = json.dumps({**_PLAIN, "model": {**model, "max_input_chars_per_word": most}})
        if fits:
            assert tokenizer_from(stated).encode("a").ids == [0]
        else:
            with pytest.raises(ValueError, match="more than 256 letters"):
                tokenizer_from(stated)


def added(content: str, number: int = 1) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content, **flags}


def test_tokens_besides_the_vocabulary_are_limited_together() -> None:
    fits = [added(f"<unused{number}>", number) for number in range(1, 10_000)]
    assert tokenizer_from(json.dumps({**_PLAIN, "added_tokens": fits})).encode("<unused7>").ids == [7]
    for tokens in ([added("x" * ((1 << 20) + 1))], [added(f"{n:0110}", n) for n in range(1, 10_001)]):
        with pytest.raises(ValueError, match=r"the added tokens .* letters, more than 1,048,576"):
            tokenizer_from(json.dumps({**_PLAIN, "added_tokens": tokens}))


def test_added_tokens_that_are_normalised_count_as_long_as_they_become(tmp_path: Path) -> None:
    """A tokenizer passes them through its normalizer when it opens."""
    tokens = [{**added(f"{number:0100}", number), "normalized": True} for number in range(1, 1001)]
    grown = json.loads(text(replace("aaaa", Regex="[0-9]"), replace("aaaa"), {"type": "Prepend", "prepend": "aa"}))
    for kept in (tokens[:600], [{**each, "normalized": False} for each in tokens]):
        assert tokenizer_from(json.dumps({**grown, "added_tokens": kept})).get_vocab_size() == len(kept) + 1
    with pytest.raises(ValueError, match="have 1,632,000 letters once they are normalised, more than 1,048,576"):
        tokenizer_from(json.dumps({**grown, "added_tokens": tokens}))
    (tmp_path / "tokenizer.json").write_text(json.dumps(grown))
    for content in (
        {"added_tokens_decoder": {str(each["id"]): each for each in tokens}},
        {"extra_special_tokens": [each["content"] for each in tokens]},
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**content, "chat_template": "x" * 100_000}))
        with pytest.raises(ModelNameError, match=r"tokenizer_config\.json .* letters once they are normalised"):
            check_tokenizers("theirs", tmp_path)
    settings = {"added_tokens_decoder": {"1": added("<unused>")}, "chat_template": "x" * 100_000}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    check_tokenizers("theirs", tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": added("x" * (1 << 21))}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["x" * (1 << 21)]}),
        ("special_tokens_map.json", {"unk_token": {"content": "x" * (1 << 21)}}),
        ("added_tokens.json", {"x" * (1 << 21): 7}),
        ("added_tokens.json", {"content": 4, "x" * (1 << 21): 5}),
        ("special_tokens_map.json", {"content": "x", "pad_token": "x" * (1 << 21)}),
        ("tokenizer_config.json", {"pad_token": "x" * (1 << 21)}),
        ("tokenizer_config.json", {"model_specific_special_tokens": {"image_token": "x" * (1 << 21)}}),
        ("tokenizer.json", {**_PLAIN, "padding": {**_PADDING, "pad_token": "x" * (1 << 21)}}),
    ],
)
def test_tokens_in_other_files_of_a_tokenizer_are_limited_too(
    file: str, content: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ModelNameError, match=rf"the {file} of theirs cannot be used: the added tokens"):
        check_tokenizers("theirs", tmp_path)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip"])
def test_tokens_of_white_space_do_not_take_more_of_it(flag: str) -> None:
    """A caption of 20,000 spaces took up to three seconds, and one of twice the length four times as long."""
    for content, normalized in ((" ", False), ("\u3000\t", False), (" ", True), ("x", True)):
        one = {**added(content), "normalized": normalized, flag: True}
        with pytest.raises(ValueError, match=r"is white space and takes the .* set its lstrip and rstrip to false"):
            tokenizer_from(json.dumps({**json.loads(text(replace(" ", String="x"))), "added_tokens": [one]}))
    for content, more in (("<mask>", {flag: True}), (" ", {}), ("x", {flag: True})):
        assert tokenizer_from(json.dumps({**_PLAIN, "added_tokens": [{**added(content), **more}]}))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", {**_PLAIN, "added_tokens": [added("<x>", (1 << 24) + 1)]}),
        ("tokenizer.json", {**_PLAIN, "model": {**_PLAIN["model"], "vocab": {"[UNK]": 0, "x": (1 << 32) - 1}}}),
        ("added_tokens.json", {"<x>": 1 << 31}),
        ("added_tokens.json", {"<x>": -1}),
        ("tokenizer_config.json", {"added_tokens_decoder": {str(1 << 31): added("<x>")}}),
    ],
)
def test_the_ids_of_tokens_are_limited(file: str, content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(
        ModelNameError, match=rf"the {file} of theirs .* has the id .* not from 0 to 16,777,216; correct"
    ):
        check_tokenizers("theirs", tmp_path)


def test_ordinary_ids_and_lengths_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<x>": 1_000_000}))
    settings = {"added_tokens_decoder": {"1000000": added("<x>")}, "model_max_length": int(1e30)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    check_tokenizers("theirs", tmp_path)


def test_a_row_longer_than_the_context_is_an_error() -> None:
    tokenizer = Tokenizer.from_str(json.dumps({**_PLAIN, "pre_tokenizer": {"type": "Whitespace"}}))
    tokenizer.enable_truncation(3)
    assert tokens_of(tokenizer, pad=0).encode(["a " * 9]) == [[0, 0, 0]]
    tokenizer.post_processor = Tokenizer.from_str(
        json.dumps({**_PLAIN, "post_processor": template(["A", "A"])})
    ).post_processor
    with pytest.raises(ValueError, match="turns this text into more tokens than the model reads, 3"):
        tokens_of(tokenizer, pad=0).encode(["a", "a b"])


def test_a_model_with_such_a_tokenizer_is_refused(tmp_path: Path) -> None:
    copy_of(mini_folder(), tmp_path / "theirs")
    stated = json.loads((tmp_path / "theirs" / "tokenizer.json").read_text(encoding="utf-8"))
    stated["post_processor"]["single"] = [{"Sequence": {"id": "A", "type_id": 0}}] * 30
    (tmp_path / "theirs" / "tokenizer.json").write_text(json.dumps(stated), encoding="utf-8")
    with pytest.raises(ModelError, match="far longer"):
        load_encoder(Config(model=str(tmp_path / "theirs"), device="cpu", backend="torch"))


def growing(folder: Path, to: Path) -> Path:
    """Copy a model whose tokenizer then writes a hundred letters for each."""
    copy_of(folder, to)
    stated = json.loads((to / "tokenizer.json").read_text(encoding="utf-8"))
    (to / "tokenizer.json").write_text(json.dumps({**stated, "normalizer": _GROWING}), encoding="utf-8")
    return to


def test_a_tokenizer_of_transformers_is_checked_before_it_is_opened(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError

    folder = growing(tiny_clip, tmp_path / ("a" * 40))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", opened)
    with pytest.raises(ModelNameError, match=r"the tokenizer\.json of .* far longer"):
        load_encoder(Config(model=str(folder), device="cpu", backend="torch"))

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelNameError, match=r"the tokenizer\.json of .* far longer"):
        load_encoder(Config(model=str(adapter), device="cpu", backend="torch"))

    def fetch(*_: Any, allow_patterns: list[str], **__: Any) -> str:
        assert "tokenizer*.json" in allow_patterns
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.setattr(clip, "require_hub", lambda *_: [])
    monkeypatch.setattr(clip, "cached_folder", lambda *_: None)
    monkeypatch.setattr(AutoConfig, "from_pretrained", _not_cached)
    with pytest.raises(ModelNameError, match=r"the tokenizer\.json of o/theirs .* far longer"):
        load_clip("o/theirs", Config(device="cpu"), revision=None, trusted=False)


def _not_cached(*_: Any, local_files_only: bool, **__: Any) -> None:
    assert local_files_only
    raise OSError


def test_a_tokenizer_of_open_clip_is_checked_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError

    save_open_clip("siglip", tmp_path / "ours")
    folder = growing(tmp_path / "ours", tmp_path / "theirs")
    monkeypatch.setattr(open_clip_tokens, "HFTokenizer", opened)
    with pytest.raises(ModelNameError, match=r"the tokenizer\.json of .* far longer"):
        load_encoder(Config(model=str(folder), device="cpu", backend="torch"))


def test_a_sentencepiece_model_is_checked_before_it_is_opened(
    tiny_siglip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = tmp_path / "model", (tiny_siglip / "spiece.model").read_bytes()
    check_pieces(model)
    copy_of(tiny_siglip, folder)
    spec = b"\x12" + _length(charsmap(2000))  # the field of the rules
    (folder / "spiece.model").write_bytes(model + b"\x1a" + _length(spec))  # once more the field of the normalizer
    with pytest.raises(ModelNameError, match=r"the spiece\.model of .* far longer"):
        load_encoder(Config(model=str(folder), device="cpu", backend="torch"))
    for damaged in (b"\x1a\x7f", b"\xff" * 20, b"\x0b"):
        with pytest.raises(ValueError, match="damaged"):
            check_pieces(damaged)


@pytest.mark.parametrize("field", [1, 30, 31, 45, 46, 47, 48])
def test_the_tokens_of_a_sentencepiece_model_besides_its_vocabulary_are_limited_too(
    field: int, tiny_siglip: Path, tmp_path: Path
) -> None:
    model = sentencepiece_model_pb2.ModelProto.FromString((tiny_siglip / "spiece.model").read_bytes())
    model.pieces.add(piece="x" * 5000, score=0)
    check_pieces(model.SerializeToString())  # a word of the vocabulary, which is only loaded
    if field == 1:
        for kind in (model.SentencePiece.CONTROL, model.SentencePiece.USER_DEFINED):
            model.pieces.add(piece="x" * (1 << 19), score=0, type=kind)
    else:
        name, long = model.trainer_spec.DESCRIPTOR.fields_by_number[field].name, "x" * (1 << 20)
        value = [long] if name.endswith("symbols") else long
        model.trainer_spec.MergeFrom(type(model.trainer_spec)(**{name: value}))
    (tmp_path / "spiece.model").write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelNameError, match=r"the spiece\.model of theirs cannot be used: the added tokens .* letters"
    ):
        check_tokenizers("theirs", tmp_path)


def test_the_captions_of_a_sentencepiece_model_are_limited_too(
    tiny_siglip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(Config(model=tiny_siglip, device="cpu", backend="torch"))
    pieces = encoder.tokens.pieces  # type: ignore[attr-defined]
    growth = 2 * check_pieces(pieces.model)  # lower case, and the model's own rules
    texts = ["a red dog", "a" * 10, "", "blue cats"]
    expected = piece_tokens(pieces).encode(texts)
    monkeypatch.setattr(tokens_module, "_AT_ONCE", 9 * growth)
    monkeypatch.setattr(tokens_module, "_MOST_GROWN", 10 * growth)
    assert piece_tokens(pieces).encode(texts) == expected
    with pytest.raises(ValueError, match=f"a caption has 11 characters, and .* may make it {growth} times longer"):
        piece_tokens(pieces).encode([*texts, "a" * 11])


def test_the_rules_around_a_sentencepiece_model_are_limited_too(tiny_siglip: Path) -> None:
    """They come with an export, in its manifest."""
    pieces = load_encoder(Config(model=tiny_siglip, device="cpu", backend="torch")).tokens.pieces  # type: ignore[attr-defined]
    one = pieces.rules.added[0]
    few, many = (
        [*pieces.rules.added, *(dataclasses.replace(one, text=f"<{n}>") for n in range(n))] for n in (99, 20_000)
    )
    assert piece_tokens(dataclasses.replace(pieces, rules=dataclasses.replace(pieces.rules, added=tuple(few))))
    for change, said in (
        ({"added": tuple(many)}, "the added tokens of the tokenizer have .* letters"),
        ({"unknown": "a" * 101}, "the unknown token has 101 letters, more than 100"),
    ):
        with pytest.raises(ValueError, match=said):
            piece_tokens(dataclasses.replace(pieces, rules=dataclasses.replace(pieces.rules, **change)))


def _length(content: bytes) -> bytes:
    return bytes([len(content) & 127 | 128, len(content) >> 7]) + content


def test_steps_that_a_library_adds_are_checked() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    check_steps(tokenizer)
    tokenizer.normalizer = Tokenizer.from_str(text(_GROWING)).normalizer
    with pytest.raises(ValueError, match="far longer"):
        clip_text.check_tokenizer("theirs", _Fast(tokenizer))


def test_the_step_that_lower_cases_captions_for_siglip_is_checked() -> None:
    """An export of the model, whose steps include it, would be refused otherwise."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    network = SimpleNamespace(config=SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=16)))
    tokenizer.normalizer = Tokenizer.from_str(text(*[replace("a" * 8)] * 2, replace("aaa"))).normalizer
    check_steps(tokenizer)
    with pytest.raises(ValueError, match="far longer"):
        clip_text.siglip_text("theirs", network, _Fast(tokenizer))


class _Fast:
    """What transformers makes of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.backend_tokenizer = tokenizer
        self.pad_token_id = 0
        self.init_kwargs: dict[str, Any] = {}

    def __call__(self, *_: Any, **__: Any) -> None:
        raise AssertionError
