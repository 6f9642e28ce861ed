"""Tokenizers that would make captions far longer."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoTokenizer

from tests.encoders.test_load import copy_of
from tests.support.open_clip_models import save_open_clip
from text_image_similarity import Config, ModelNameError, load_encoder
from text_image_similarity.encoders import clip, clip_text, hub, open_clip_tokens
from text_image_similarity.encoders.clip import load_clip
from text_image_similarity.encoders.token_growth import check_pieces, check_steps, tokenizer_from

_PLAIN = json.loads(Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]")).to_str())
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
        [replace("aaa")] * 7,
        [replace("a", Regex="")] * 11,
        [replace("a", String="")] * 11,
        [{"type": "ByteLevel"}] * 6,
        [{"type": "Prepend", "prepend": "a" * 9}],
        [replace("b")] * 49,
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


def _length(content: bytes) -> bytes:
    return bytes([len(content) & 127 | 128, len(content) >> 7]) + content


def test_steps_that_a_library_adds_are_checked() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    check_steps(tokenizer)
    tokenizer.normalizer = Tokenizer.from_str(text(_GROWING)).normalizer
    with pytest.raises(ValueError, match="far longer"):
        clip_text.check_tokenizer("theirs", _Fast(tokenizer))


class _Fast:
    """What transformers makes of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.backend_tokenizer = tokenizer

    def __call__(self, *_: Any, **__: Any) -> None:
        raise AssertionError
