"""Captions reach CLIP and SigLIP models as these were trained on them, and CLIP is read at the right token."""

from __future__ import annotations

import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPModel,
    CLIPTokenizer,
    GemmaTokenizer,
    Siglip2Tokenizer,
    SiglipModel,
    SiglipTokenizer,
    TokenizersBackend,
)

from tests.support.models import save_siglip2
from text_image_similarity import Config, ModelError, load_encoder
from text_image_similarity.encoders.clip_text import clip_text, siglip_text

END = 513  # the tiny CLIP's end token


def torch_config(folder: Path) -> Config:
    return Config(model=folder, device="cpu", backend="torch")


@pytest.mark.parametrize("kind", [GemmaTokenizer, Siglip2Tokenizer])
def test_siglip_2_gets_lower_case(kind: type[TokenizersBackend], tmp_path: Path) -> None:
    folder = save_siglip2(tmp_path, kind)
    upper, lower, other = load_encoder(torch_config(folder)).encode_text(["A Red Dog!", "a red dog!", "a red cat!"])
    np.testing.assert_array_equal(upper, lower)
    assert np.abs(lower - other).max() > 1e-4
    ids = Siglip2Tokenizer.from_pretrained(folder)(["a red dog!"], padding="max_length", max_length=16)["input_ids"]
    with torch.inference_mode():
        features = SiglipModel.from_pretrained(folder).get_text_features(input_ids=torch.tensor(ids)).pooler_output
    np.testing.assert_allclose(upper, torch.nn.functional.normalize(features)[0].numpy(), atol=1e-5)


def test_siglip_2_keeps_case_where_its_files_say_so(tmp_path: Path) -> None:
    encoder = load_encoder(torch_config(save_siglip2(tmp_path, do_lower_case=False)))
    upper, lower = encoder.encode_text(["A Red Dog", "a red dog"])
    assert np.abs(upper - lower).max() > 1e-4


def test_siglip_1_reads_captions_as_before(tiny_siglip: Path) -> None:
    captions = ["A Red DOG!", "a </S> dog"]
    network, tokenizer = SiglipModel.from_pretrained(tiny_siglip), AutoTokenizer.from_pretrained(tiny_siglip)
    tokens, _ = siglip_text("tiny", network, tokenizer)
    assert tokens.encode(captions) == SiglipTokenizer.from_pretrained(tiny_siglip)(captions)["input_ids"]


def test_a_siglip_tokenizer_without_padding_is_refused(tiny_siglip: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_siglip)
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="the tokenizer of tiny has no padding token"):
        siglip_text("tiny", SiglipModel.from_pretrained(tiny_siglip), tokenizer)


def add_tokens(model: Path, to: Path, tokens: dict[str, Any], *, resize: bool = True) -> Path:
    """Save a CLIP with tokens added to its vocabulary, as for textual inversion."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), CLIPModel.from_pretrained(model)
    tokenizer.add_special_tokens(tokens)
    if resize:
        network.text_model.resize_token_embeddings(len(tokenizer))
        network.text_model.config.vocab_size = len(tokenizer)
    for part in (tokenizer, network, AutoImageProcessor.from_pretrained(model, backend="pil")):
        part.save_pretrained(to)
    return to


def set_eos(model: Path, eos: object) -> None:
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["eos_token_id"] = eos
    (model / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("tokens", [{"additional_special_tokens": ["<img>"]}, {"pad_token": "[PAD]"}])
def test_clip_is_read_at_the_end_token(tokens: dict[str, Any], tiny_clip: Path, tmp_path: Path) -> None:
    captions = ["a dog", "a cat", "<img> a dog", "<img> two blue cats"]
    folder = add_tokens(tiny_clip, tmp_path, tokens)
    ids = AutoTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        features = CLIPModel.from_pretrained(folder).get_text_features(input_ids=ids).pooler_output
    expected = torch.nn.functional.normalize(features).numpy()
    assert (expected @ expected.T)[np.triu_indices(4, 1)].max() < 0.999
    for eos in (2, None, [END], 49407):  # what config.json may say; END is what the tokenizer ends captions with
        set_eos(folder, eos)
        found = load_encoder(torch_config(folder)).encode_text(captions)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.extended
def test_an_exported_clip_is_read_there_too(tiny_clip: Path, tmp_path: Path) -> None:
    folder = add_tokens(tiny_clip, tmp_path / "model", {"additional_special_tokens": ["<img>"]})
    set_eos(folder, 2)
    captions = ["<img> a dog", "<img> two blue cats", "<img> a cat on a mat"]
    exported = load_encoder(Config(model=folder, backend="onnx", model_cache=tmp_path / "cache"))
    expected = load_encoder(torch_config(folder)).encode_text(captions)
    np.testing.assert_allclose(exported.encode_text(captions), expected, atol=2e-6)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_an_end_token_may_be_number_2(tiny_clip: Path) -> None:
    """2 in `config.json` is usually a mistake; here it is the end token, and a higher id stands before it."""
    network = CLIPModel.from_pretrained(tiny_clip)
    names = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", *(letter + "</w>" for letter in "abcdefgh")]
    tokenizer = CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])
    tokens, features = clip_text("tiny", network, tokenizer)
    (row,) = tokens.encode(["a h b"])
    assert row == [1, 3, 10, 4, 2]
    with torch.inference_mode():
        hidden = network.text_model(input_ids=torch.tensor([row])).last_hidden_state
        found = features(network, torch.from_numpy(tokens.padded([row], 8)))
        np.testing.assert_allclose(found, network.text_projection(hidden[:, 4]), atol=1e-5)


def test_clip_folders_that_cannot_be_read_rightly_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    folder = add_tokens(tiny_clip, tmp_path, {"additional_special_tokens": ["<img>"]}, resize=False)
    with pytest.raises(ModelError, match="has token ids up to 514, but the text tower has only 514 embeddings"):
        load_encoder(torch_config(folder))
    network, tokenizer = CLIPModel.from_pretrained(tiny_clip), AutoTokenizer.from_pretrained(tiny_clip)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", None, [])
    with pytest.raises(ModelError, match="does not end captions with an end-of-text token"):
        clip_text("tiny", network, tokenizer)


def test_a_stateful_tokenizer_is_used_by_one_thread_at_a_time(tiny_siglip: Path) -> None:
    """The tokenizers of transformers keep truncation as state and fail when two threads change it at once."""
    network = SiglipModel.from_pretrained(tiny_siglip)
    inner = AutoTokenizer.from_pretrained(tiny_siglip)
    together = threading.Barrier(2)
    met: list[bool] = []

    class Tokenizer:
        pad_token_id = inner.pad_token_id

        def __call__(self, *given: object, **options: object) -> object:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(0.3)
                met.append(True)
            return inner(*given, **options)

    tokens, _ = siglip_text("tiny", network, Tokenizer())
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(tokens.encode, [["a"], ["b"]]))
    assert not met
