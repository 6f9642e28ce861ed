"""A stranger's model folder opens nothing but itself, runs nothing, asks nothing, and is refused in words that can be printed."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.hf_configs import arch_dict
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    VeraConfig,
)
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

from tests.encoders.test_load import copy_of
from tests.support.family_models import save_family
from tests.support.open_clip_models import save_open_clip
from text_image_similarity import Config, ConfigError, ModelError, ModelNameError, load_encoder
from text_image_similarity.encoders import clip, hub, image_cost, on_network_share, open_clip_files, weight_limit
from text_image_similarity.encoders import weights as weights_module
from text_image_similarity.encoders.adapter_patterns import check_patterns
from text_image_similarity.encoders.adapters import base_of, merged
from text_image_similarity.encoders.attention_cost import check_attention
from text_image_similarity.encoders.clip import load_clip
from text_image_similarity.encoders.dual_encoder import read_dual_encoder
from text_image_similarity.encoders.fingerprint import fingerprint
from text_image_similarity.encoders.image_cost import check_image_cost
from text_image_similarity.encoders.kinds import FAMILIES, check_folder, check_type
from text_image_similarity.encoders.open_clip_names import OpenClipName
from text_image_similarity.encoders.settings_files import check_settings, read_settings
from text_image_similarity.encoders.towers.image import build_backbone
from text_image_similarity.encoders.weight_limit import limited_by
from text_image_similarity.encoders.weights import dequantised
from text_image_similarity.encoders.zipped import mini_folder

CLIP = Config(device="cpu", backend="torch")
DEEP = "[" * 200_000


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(question: str = "") -> str:
        raise AssertionError(question)

    monkeypatch.setattr("builtins.input", asked)


def changed(folder: Path, to: Path, file: str, values: dict[str, Any], part: str | None = None) -> Path:
    """Copy a model with more in one of its settings, or in a part of them."""
    copy_of(folder, to)
    settings = json.loads((to / file).read_text()) if (to / file).exists() else {}
    (settings if part is None else settings[part]).update(values)
    (to / file).write_text(json.dumps(settings))
    return to


@pytest.mark.parametrize(
    ("file", "part", "values", "said"),
    [
        ("config.json", "text_config", {"auto_map": {"AutoModel": "o/r--m.C"}}, "names code that comes with the model"),
        ("config.json", None, {"a": [{"b": {"auto_map": {"AutoModel": "m.C"}}}]}, "names code that comes with the model"),
        ("processor_config.json", None, {"image_processor": {"auto_map": {"A": "m.C"}}}, "has auto_map in its processor_config.json"),
        ("video_preprocessor_config.json", None, {"auto_map": {"A": "m.C"}}, "names code that comes with the model"),
        ("config.json", "vision_config", {"model_args": {"checkpoint_path": "./x.pth"}}, "has model_args in its config.json, which would make"),
        ("config.json", "vision_config", {"x": {"checkpoint_path": "./x.pth"}}, "has checkpoint_path in its config.json, which would make"),
        ("config.json", "vision_config", {"pretrained_cfg_overlay": {"file": "x"}}, "has pretrained_cfg_overlay"),
        ("config.json", None, {"configuration_files": ["config.5.0.0.json"]}, "has configuration_files"),
        ("config.json", None, {"transformers_weights": "x.bin"}, "has transformers_weights"),
        ("config.json", None, {"quantization_config": {"quant_method": "awq"}}, "has quantization_config"),
        ("config.json", "text_config", {"_attn_implementation": "evil/kernel"}, "has _attn_implementation 'evil/kernel' in its config.json"),
        ("config.json", None, {"attn_implementation": {"": "sdpa", "text_config": "flash_attention_2"}}, "use eager or sdpa"),
        ("tokenizer_config.json", None, {"vocab_file": "/etc/passwd"}, "has vocab_file '/etc/passwd' in its tokenizer_config.json, which is not the name"),
        ("tokenizer_config.json", None, {"tokenizer_file": "/home/me/tokenizer.json"}, "has tokenizer_file '/home/me/tokenizer.json'"),
        ("tokenizer_config.json", None, {"merges_file": "../merges.txt"}, "has merges_file '../merges.txt'"),
        ("tokenizer_config.json", None, {"merges_file": ".."}, "has merges_file '..'"),
        ("tokenizer_config.json", None, {"sp_model_kwargs": {"model_file": "/etc/passwd"}}, "has model_file in its tokenizer_config.json, which would make"),
        ("tokenizer_config.json", None, {"sp_model_kwargs": {"model_file": "x.model"}}, "has model_file in its tokenizer_config.json, which would make"),
        ("tokenizer_config.json", None, {"vocab": "/etc/passwd"}, "has vocab in its tokenizer_config.json, which would make"),
        ("tokenizer_config.json", None, {"merges": "merges.txt"}, "has merges in its tokenizer_config.json, which would make"),
        ("preprocessor_config.json", None, {"image_processor_type": "OneFormerImageProcessor"}, "which this package does not support"),
        ("tokenizer_config.json", None, {"tokenizer_class": "BertJapaneseTokenizer"}, "which this package does not support"),
        ("tokenizer_config.json", None, {"init_inputs": ["/etc/passwd"]}, "has init_inputs"),
        ("adapter_config.json", None, {"base_model_name_or_path": "o/base"}, "holds a PEFT adapter next to a model"),
        ("model.safetensors.index.json", None, {"weight_map": {"a": "weights.bin"}}, "names 'weights.bin', which is not a .safetensors file"),
        ("model.safetensors.index.json", None, {"weight_map": {"a": "../x.safetensors"}}, "names '../x.safetensors', which is not"),
        ("model.safetensors.index.json", None, {"weight_map": []}, "has no weight_map"),
    ],
)  # fmt: skip
def test_settings_name_nothing_outside_of_their_folder(
    file: str, part: str | None, values: dict[str, Any], said: str, tiny_clip: Path, tmp_path: Path
) -> None:
    check_settings("ours", tiny_clip)
    folder = changed(tiny_clip, tmp_path / "model", file, values, part)
    with pytest.raises(ModelNameError) as caught:
        check_settings("theirs", folder)
    assert said in str(caught.value)
    with pytest.raises(ModelNameError):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


def test_settings_that_say_nothing_of_it_are_read(tiny_clip: Path, tmp_path: Path) -> None:
    harmless = {
        "backbone": None,
        "use_timm_backbone": False,
        "attn_implementation": "sdpa",
        "vocab": {"a": 0},
        "merges": [["a", "b"]],
        "sp_model_kwargs": {"enable_sampling": False},
        "vocab_file": "..vocab.txt",
    }
    load_encoder(
        Config(model=changed(tiny_clip, tmp_path / "a", "config.json", harmless), device="cpu", backend="torch")
    )


def test_a_hub_model_is_looked_at_before_any_library_reads_it(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(tiny_clip, tmp_path / ("a" * 40), "config.json", {"auto_map": {"A": "m.C"}}, "text_config")
    monkeypatch.setattr(clip, "require_hub", lambda *_: [])
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(folder))
    monkeypatch.setattr(AutoConfig, "from_pretrained", missing)
    with pytest.raises(ModelNameError, match="o/theirs has auto_map in its config"):
        load_clip("o/theirs", CLIP, revision=None, trusted=False)


def missing(name: str, *, local_files_only: bool, **_: Any) -> None:
    assert local_files_only, "the hub's files are read before they are looked at"
    raise OSError("it is not in the cache")


def test_every_kind_that_is_loaded_builds_its_own_towers() -> None:
    for kind in FAMILIES:
        assert AutoConfig not in CONFIG_MAPPING[kind].sub_configs.values(), kind
    towers = {"text_config": {"model_type": "clip_text_model"}, "vision_config": {"model_type": "timm_wrapper"}}
    for kind in ("vision-text-dual-encoder", "timm_wrapper", "blip-2"):
        with pytest.raises(ModelNameError, match=f"is a {kind} model; this package loads CLIP, SigLIP, MetaCLIP 2"):
            check_type("theirs", {"model_type": kind, **towers})


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 40 + "1" + "}" * 40, '{"a":' + "9" * 5000 + "}", " " * (16 << 20) + "{}"]
)
def test_json_without_bounds_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelNameError, match=r"its config\.json cannot be read"):
        check_folder("theirs", tmp_path)
    with pytest.raises(ValueError, match=r"^it |^a number"):
        read_settings(tmp_path / "config.json")


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_deep_json_of_a_library_is_a_model_error(file: str, tiny_clip: Path, tmp_path: Path) -> None:
    (copy_of(tiny_clip, tmp_path / "a") / file).write_text(DEEP)
    with pytest.raises(ModelError, match=r"theirs|/a "):
        load_encoder(Config(model=tmp_path / "a", device="cpu", backend="torch"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "bert", "auto\\u005fmap": {"AutoModel": "own.Model"}}', "has auto_map in its config.json"),
        ('{"model_type": "vision-text-dual-encoder"}', "is a vision-text-dual-encoder model; open_clip supports bert"),
        ('{"model_type": "bert", "num_attention_heads": 12288}', "would compare 77 patches or tokens with each other"),
        (DEEP, "nested"),
    ],
)
def test_a_text_tower_of_open_clip(config: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(config)
    text = {"hf_model_name": "evil/text"}
    settings = {"model_cfg": {"embed_dim": 16, "vision_cfg": {}, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    (tmp_path / "open_clip_model.safetensors").touch()
    monkeypatch.setattr(hub, "fetch_file", lambda *_: tmp_path / "config.json")
    with pytest.raises(ModelError, match=said):
        open_clip_files.find_open_clip("theirs", OpenClipName(folder=tmp_path), None)


def test_open_clips_text_towers_are_those_that_it_knows() -> None:
    assert set(arch_dict) == set(open_clip_files._TEXT_TOWERS)


@pytest.mark.parametrize("name", ["hf-hub:evil/model", "local-dir:./evil", "evil/model"])
def test_a_trained_models_image_tower_is_one_of_timms_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm looked for it"))
    with pytest.raises(ConfigError, match="is not the name of one of timm's networks"):
        build_backbone(f"timm/{name}", 32)


def test_a_model_has_regular_files(tiny_clip: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_clip, tmp_path / "theirs")
    (folder / "notes.txt").symlink_to("/dev/zero")
    with pytest.raises(ModelNameError, match=r"notes\.txt in the model folder .* is not a regular file; remove it"):
        load_encoder(Config(model=folder))
    with pytest.raises(ModelError, match=r"notes\.txt cannot be read: it is not a regular file"):
        fingerprint(folder)
    os.mkfifo(folder / "pipe.json")
    with pytest.raises(OSError, match=r"pipe\.json is not a regular file"):
        read_settings(folder / "pipe.json")


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "XLORA", "adapters": {"0": "evil/adapter"}},
        {"peft_type": "SHADOW", "shadow_model": "evil/model"},
        {"peft_type": "MULTITASK_PROMPT_TUNING", "prompt_tuning_init_state_dict_path": "/etc/pickle"},
        {"peft_type": "BOFT", "boft_n_butterfly_factor": 10},
        {"peft_type": "HRA", "r": 4096},
        {"peft_type": ["LORA"]},
        {},
    ],
)
def test_an_adapter_is_of_a_type_that_reads_nothing_else(settings: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "o/base", **settings}))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelNameError, match="this package accepts: LORA, "):
        base_of("theirs", tmp_path)


@pytest.mark.parametrize("before", ["", "local-dir:", "open_clip:ViT-B-32//"])
def test_an_adapters_base_on_another_computer_is_not_looked_for(
    before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_dir(path: Path) -> bool:
        raise AssertionError(path)

    share = "//evil/share/base"
    settings = {"base_model_name_or_path": before + share, "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").touch()
    monkeypatch.setattr("text_image_similarity.encoders.adapters.on_other_share", lambda path, _: path == Path(share))
    monkeypatch.setattr(Path, "is_dir", is_dir)
    with pytest.raises(
        ModelNameError, match=f"theirs holds a PEFT adapter for {before}//evil/share/base, which is on another comp"
    ):
        base_of("theirs", tmp_path)


@pytest.mark.parametrize("settings", [{"r": 5000}, {"r": 4, "rank_pattern": {"q_proj": 5000}}, {"init_r": 5000}])
def test_the_rank_of_an_adapter_is_limited(settings: dict[str, object], tmp_path: Path) -> None:
    common = {"base_model_name_or_path": "o/base", "peft_type": "LORA"}
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text(json.dumps({**common, "r": 4096}))
    assert base_of("theirs", tmp_path) == "o/base"
    (tmp_path / "adapter_config.json").write_text(json.dumps({**common, **settings}))
    with pytest.raises(ModelNameError, match="with a rank of more than 4,096 in its adapter_config"):
        base_of("theirs", tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init_lora_weights": "pissa_niter_2000000000"}, "init_lora_weights 'pissa_niter_2000000000'"),
        ({"init_lora_weights": "pissa_niter_100"}, "init_lora_weights"),
        ({"init_lora_weights": "pissa_niter_33"}, "init_lora_weights"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights 'loftq'"),
        ({"init_lora_weights": ["pissa"]}, "init_lora_weights"),
        ({"init_weights": 10**9}, "init_weights 1000000000"),
        ({"loftq_config": {"loftq_bits": 4, "loftq_iter": 10**9}}, "loftq_config"),
        ({"corda_config": {"cache_file": "/etc/pickle"}}, "corda_config"),
        ({"eva_config": {"rho": 2.0}}, "eva_config"),
        ({"lora_ga_config": {"stable_gamma": 16}}, "lora_ga_config"),
        ({"layer_replication": [[0, 10**9]]}, "layer_replication"),
        ({"num_cayley_neumann_terms": 10**9}, "num_cayley_neumann_terms above 16"),
    ],
)
def test_an_adapter_does_not_compute_for_ever(settings: dict[str, object], said: str, tmp_path: Path) -> None:
    common = {"base_model_name_or_path": "o/base", "peft_type": "LORA"}
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text(json.dumps({**common, **settings}))
    with pytest.raises(ModelNameError, match=re.escape(said)):
        base_of("theirs", tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": True, "loftq_config": {}, "eva_config": None, "corda_config": None},
        *(
            {"init_lora_weights": how}
            for how in (False, "gaussian", "olora", "pissa", "pissa_niter_16", "eva", "orthogonal")
        ),
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0, "tau": 0.99}},
        {"init_weights": "lycoris"},
        {"init_weights": True, "num_cayley_neumann_terms": 5},
    ],
)
def test_an_honest_adapter_is_accepted(settings: dict[str, object], tmp_path: Path) -> None:
    common = {"base_model_name_or_path": "o/base", "peft_type": "LORA"}
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text(json.dumps({**common, **settings}))
    assert base_of("theirs", tmp_path) == "o/base"


def test_what_peft_makes_of_an_adapter_is_accepted(tmp_path: Path) -> None:
    """The settings that this version of peft saves by default."""
    (tmp_path / "adapter_model.safetensors").touch()
    for kind in (LoraConfig, AdaLoraConfig, LoHaConfig, LoKrConfig, OFTConfig, IA3Config, VeraConfig):
        more: dict[str, Any] = {"total_step": 10} if kind is AdaLoraConfig else {}
        kind(target_modules=["q_proj"], base_model_name_or_path="o/base", **more).save_pretrained(str(tmp_path))
        assert base_of("theirs", tmp_path) == "o/base"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"num_labels": 10**9}, "num_labels 1000000000 in its config.json, but numbers there may be at most 32,768"),
        ({"text_config": {"num_labels": 32_769}}, "num_labels 32769"),
        ({"vision_config": {"_num_labels": 10**9}}, "_num_labels 1000000000"),
        (
            {"vision_config": {"deep": [{"depths": [1, 1 << 25]}]}},
            "33554432 in its config.json, but numbers there may be at most 16,777,216",
        ),
    ],
)
def test_numbers_in_settings_are_limited(
    more: dict[str, Any], said: str, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError

    folder = changed(tiny_clip, tmp_path / "model", "config.json", more)
    monkeypatch.setattr(AutoConfig, "from_pretrained", opened)
    with pytest.raises(ModelNameError, match=said):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


def test_ordinary_numbers_of_labels_are_accepted(tiny_clip: Path, tmp_path: Path) -> None:
    folder = changed(tiny_clip, tmp_path / "model", "config.json", {"num_labels": 21_843, "bos_token_id": 49_406})
    assert load_clip(str(folder), CLIP, revision=None, trusted=False).embed_dim > 0


@pytest.mark.parametrize("rows", [1, 2])
def test_scales_have_the_shape_of_their_matrix(rows: int, tmp_path: Path) -> None:
    """NumPy would make a matrix of n rows and n columns of a row and n scales."""
    stored: dict[str, Any] = {"x": np.zeros((rows, 1000), np.int8), "x.scale": np.ones(1000, np.float32)}
    for scale in (stored["x.scale"], np.ones((rows, 1), np.float32), np.array(1.0, np.float32)):
        with pytest.raises(ValueError, match=r"x has the shape .*, but its scales have the shape"):
            dequantised({**stored, "x.scale": scale})
    assert dequantised({**stored, "x.scale": np.ones(rows, np.float32)})["x"].shape == (rows, 1000)


def test_weights_that_do_not_fit_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any) -> None:
        raise AssertionError

    folder = changed(mini_folder(), tmp_path / "model", "config.json", {})
    stored = dict(load_arrays(folder / "model.safetensors"))
    monkeypatch.setattr(weights_module, "load_file", read)
    name = next(name for name in stored if f"{name}.scale" in stored)
    for change, said in (
        ({name: stored[name][None]}, f"the shape of {name} is"),
        ({"other": stored[name]}, "they have the unknown tensor other"),
        ({name: None}, f"they lack {name}"),
    ):
        made = {key: value for key, value in (stored | change).items() if value is not None}
        save_arrays(made, folder / "model.safetensors")
        with pytest.raises(ModelError, match=re.escape(said)):
            read_dual_encoder(folder)


def test_too_little_memory_for_weights_is_an_error_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(weights_module, "load_file", read)
    with pytest.raises(ModelError, match="cannot be loaded"):
        read_dual_encoder(changed(mini_folder(), tmp_path / "model", "config.json", {}))


TOO_LARGE = "describe a network that is far larger than the weights that come with it; use the settings that"


def test_an_adapter_is_not_much_larger_than_its_weights(tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": "o/base", "r": 4096, "target_modules": ["a"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"base_model.model.a.lora_A.weight": torch.zeros(1, 1)}, tmp_path / "adapter_model.safetensors")
    with torch.device("meta"):
        network = nn.ModuleDict({"a": nn.Linear(100_000, 8)})
    with pytest.raises(ModelError, match=f"the settings of the adapter theirs {TOO_LARGE}"):
        merged("theirs", network, tmp_path)


@pytest.mark.parametrize("more", [{"vocab_size": 2_000_000}, {"text_tower": "transformer", "text_layers": 20_000}])
def test_a_dual_encoder_is_not_much_larger_than_its_weights(more: dict[str, Any], tmp_path: Path) -> None:
    folder = changed(mini_folder(), tmp_path / "model", "config.json", more)
    with pytest.raises(ModelError, match=TOO_LARGE):
        read_dual_encoder(folder)


def test_a_model_of_transformers_is_not_much_larger_than_its_weights(tiny_clip: Path, tmp_path: Path) -> None:
    folder = changed(tiny_clip, tmp_path / "model", "config.json", {"vocab_size": 8_000_000}, "text_config")
    with pytest.raises(ModelError, match=TOO_LARGE):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_file_of_weights_counts_once(
    link: Callable[[Path, Path], None], tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further names of it in the folder take no space, and would raise the limit."""
    monkeypatch.setattr(weight_limit, "_SPARE", 0)
    folder = changed(tiny_clip, tmp_path / "model", "config.json", {"vocab_size": 100_000}, "text_config")
    for number in range(1000):
        link(folder / "model.safetensors", folder / f"{number}.safetensors")
    with pytest.raises(ModelError, match=TOO_LARGE):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


def test_a_pickle_limits_what_is_built_but_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"not a pickle" * 100)
    with limited_by("theirs", lambda: [tmp_path / "a.bin"]), torch.device("meta"):
        nn.Linear(8, 8)
        with pytest.raises(ModelError, match=TOO_LARGE):
            nn.Linear(10_000, 10_000)


def test_pickles_in_a_folder_are_not_loaded(tiny_clip: Path, tmp_path: Path) -> None:
    """Nor are they counted: transformers is told to read safetensors only."""
    folder = changed(tiny_clip, tmp_path / "model", "config.json", {"vocab_size": 8_000_000}, "text_config")
    with (folder / "pytorch_model.bin").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelError, match=TOO_LARGE):
        load_clip(str(folder), CLIP, revision=None, trusted=False)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Opened()))
    with pytest.raises((OSError, ModelError), match=r"(?s)model\.safetensors|safetensors"):
        load_clip(str(folder), CLIP, revision=None, trusted=False)
    assert not opened


def test_weights_in_pytorchs_format_limit_what_is_built(tiny_clip: Path, tmp_path: Path) -> None:
    folder = changed(tiny_clip, tmp_path / "model", "config.json", {"vocab_size": 4_000_000}, "text_config")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=TOO_LARGE):
        load_clip(str(folder), CLIP, revision=None, trusted=True)


opened: list[int] = []


class Opened:
    """A pickle that tells whether it was loaded."""

    def __reduce__(self) -> Any:
        return opened.append, (1,)


def test_a_model_of_open_clip_is_not_much_larger_than_its_weights(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    vision = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 64}
    text = {"context_length": 77, "vocab_size": 2_000_000, "width": 64, "heads": 1, "layers": 1}
    shape = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(shape))
    with pytest.raises(ModelError, match=TOO_LARGE):
        load_encoder(replace(CLIP, model=tmp_path))
    for part, key, value, said in (
        ("text_cfg", "context_length", 5000, "have a context_length that is not a whole number from 1 to 4,096 tokens"),
        ("text_cfg", "context_length", "5000", "have a context_length that is not a whole number"),
        ("vision_cfg", "image_size", 4000, "images with a side of 4,000 pixels, more than 2,048"),
        ("vision_cfg", "image_size", [32, 4000], "images with a side of 4,000 pixels, more than 2,048"),
        ("vision_cfg", "width", 20_000, "a width or another number above 16,384"),
        ("vision_cfg", "attn_pooler_queries", 100_000_000, "a width or another number above 16,384"),
        ("text_cfg", "width", 20_000, "a width or another number above 16,384"),
    ):
        other = {**shape["model_cfg"], part: {**{"vision_cfg": vision, "text_cfg": text}[part], key: value}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": other}))
        with pytest.raises(ModelError, match=said):
            load_encoder(replace(CLIP, model=tmp_path))
    fine_patches = {"embed_dim": 16, "vision_cfg": {**vision, "image_size": 2048, "patch_size": 1}, "text_cfg": text}
    for other in ({**shape["model_cfg"], "embed_dim": 20_000_000}, fine_patches):
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": other}))
        with pytest.raises(ModelError, match="a width or another number above 16,384"):
            load_encoder(replace(CLIP, model=tmp_path))


@pytest.mark.parametrize("model", ["tiny_clip", "tiny_siglip"])
@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("text_config", {"max_position_embeddings": 1_000_000}, "has max_position_embeddings 1000000 in its config.json, "),
        ("text_config", {"max_position_embeddings": 0}, "which is not a whole number from 1 to 4,096"),
        ("vision_config", {"image_size": 2048, "patch_size": 1}, "divides an image into 4,194,304 patches, more than 16,384"),
        ("vision_config", {"image_size": [32, 2048], "patch_size": [8, 16]}, "divides an image into 65,536 patches"),
    ],
)  # fmt: skip
def test_captions_and_patches_are_limited_in_every_family(
    part: str, values: dict[str, Any], said: str, model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = changed(request.getfixturevalue(model), tmp_path / "model", "config.json", values, part)
    with pytest.raises(ModelNameError, match=said):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


@pytest.mark.parametrize("pad", [41, 50, -1, -100, None])
def test_the_padding_of_altclip_leaves_positions_for_captions(pad: int | None, tmp_path: Path) -> None:
    """Such a model gives its first positions, up to the padding token's id, to no caption."""
    save_family("altclip", tmp_path / "ours")
    folder = changed(tmp_path / "ours", tmp_path / "theirs", "config.json", {"pad_token_id": pad}, "text_config")
    said = (
        rf"theirs has pad_token_id {pad} in its config\.json, which is not a whole number from 0 to 40, two less than"
    )
    with pytest.raises(ModelNameError, match=said):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"pad_token_id": "1"}, "pad_token_id"), ({"num_attention_heads": 0}, "cannot be loaded")],
    ids=["type", "division"],
)
def test_settings_that_transformers_cannot_use_are_a_models_fault(
    change: dict[str, object], said: str, tiny_clip: Path, tmp_path: Path
) -> None:
    folder = changed(tiny_clip, tmp_path / "theirs", "config.json", change, "text_config")
    with pytest.raises(ModelError, match=said):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


def test_the_patches_of_the_images_that_a_model_gets_are_counted(tiny_siglip: Path, tmp_path: Path) -> None:
    folder = changed(tiny_siglip, tmp_path / "model", "config.json", {"patch_size": 1}, "vision_config")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "size": {"height": 2048, "width": 2048}}))
    with pytest.raises(ModelNameError, match="divides an image into 4,194,304 patches"):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


@pytest.mark.parametrize(
    "file", ["tekken.json", "my_tekken.v3.json", "tiktoken.model", "tokenizer.model.", "Tekken.JSON"]
)
def test_files_of_other_kinds_of_tokenizers_are_refused(file: str, tiny_clip: Path, tmp_path: Path) -> None:
    copy_of(tiny_clip, tmp_path / "model")
    (tmp_path / "model" / file).write_text("{}")
    with pytest.raises(ModelNameError, match=rf"has a {file}, from which transformers .* remove the file"):
        load_clip(str(tmp_path / "model"), CLIP, revision=None, trusted=False)


HEADS = (
    "would compare .* patches or tokens with each other in .* heads and .* layers, which would take too much memory"
    "|would have .* hidden values at each of .* patches or tokens, which would take too much memory"
)


@pytest.mark.parametrize(
    ("part", "values", "tower"),
    [
        ("text_config", {"intermediate_size": 1 << 22}, "text"),
        ("vision_config", {"intermediate_size": 1 << 24}, "image"),
    ],
)
def test_the_width_of_an_mlp_is_limited_by_the_positions_that_it_reads(
    part: str, values: dict[str, Any], tower: str, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(AutoModel, "from_pretrained", opened)
    folder = changed(tiny_clip, tmp_path / "model", "config.json", values, part)
    with pytest.raises(ModelNameError, match=rf"the {tower} tower of .* hidden values at each of .* too much memory"):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


def test_the_width_of_an_mlp_of_open_clip_is_limited() -> None:
    for text, vision in (({"mlp_ratio": 1e5}, {}), ({}, {"mlp_ratio": 1e5})):
        with pytest.raises(ModelNameError, match="hidden values at each of"):
            open_clip_files._check_attention("theirs", text, vision)
    with pytest.raises(ModelNameError, match="which is not a number; correct"):
        open_clip_files._check_attention("theirs", {"mlp_ratio": "4"}, {})


def test_an_image_tower_costs_not_far_more_than_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder names the network and the size of its images; nothing else limits their cost."""
    monkeypatch.setattr(image_cost, "_MOST_PRODUCTS", 1 << 28)
    folder = changed(mini_folder(), tmp_path / "model", "config.json", {"image_tower": "resnet18", "image_size": 224})
    with pytest.raises(ModelError, match="multiplications in the image tower resnet18"):
        read_dual_encoder(folder)


@pytest.mark.parametrize("more", [{}, {"patch_size": 16}])
def test_the_cost_of_an_image_of_align_is_limited(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_family("align", tmp_path / "ours")
    folder = changed(tmp_path / "ours", tmp_path / "theirs", "config.json", more, "vision_config")
    load_clip(str(folder), CLIP, revision=None, trusted=False)
    monkeypatch.setattr(image_cost, "_MOST_VALUES", 1 << 10)
    with pytest.raises(ModelNameError, match="an image of 64 x 64 pixels would take"):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


def test_the_cost_of_an_image_of_other_networks_of_open_clip_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_open_clip("convnext", tmp_path)
    load_encoder(replace(CLIP, model=folder))
    monkeypatch.setattr(image_cost, "_MOST_VALUES", 1 << 10)
    with pytest.raises(ModelError, match=r"an image of .* pixels would take"):
        load_encoder(replace(CLIP, model=folder))


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("text_config", {"max_position_embeddings": 4096, "num_attention_heads": 8}),
        ("text_config", {"max_position_embeddings": 2048, "num_hidden_layers": 4096}),
        ("vision_config", {"image_size": 2048, "patch_size": 16, "num_attention_heads": 8}),
        ("vision_config", {"image_size": 512, "patch_size": 16, "num_hidden_layers": 4096}),
        ("text_config", {"max_position_embeddings": 4096, "intermediate_size": 1 << 20}),
        ("vision_config", {"image_size": 512, "patch_size": 4, "intermediate_size": 1 << 14}),
    ],
)
def test_heads_and_layers_are_limited_by_the_positions_that_they_compare(
    part: str, values: dict[str, Any], tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of 4.5 MB asked for 69 GB for one image."""

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(AutoModel, "from_pretrained", opened)
    folder = changed(tiny_clip, tmp_path / "model", "config.json", values, part)
    with pytest.raises(ModelNameError, match=HEADS):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


def test_the_patches_that_naflex_compares_are_limited(tmp_path: Path) -> None:
    save_family("siglip2", tmp_path / "ours")
    folder = changed(tmp_path / "ours", tmp_path / "theirs", "preprocessor_config.json", {"max_num_patches": 16_384})
    with pytest.raises(ModelNameError, match=HEADS):
        load_clip(str(folder), CLIP, revision=None, trusted=False)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_settings_do_not_choose_attention_that_keeps_all_pairs(key: str, tiny_clip: Path, tmp_path: Path) -> None:
    folder = changed(tiny_clip, tmp_path / "model", "config.json", {key: "eager"})
    network = load_clip(str(folder), CLIP, revision=None, trusted=False).backend.text_tower.model  # type: ignore[attr-defined]
    layer = network.text_model.encoder.layers[0].self_attn
    assert network.config._attn_implementation == layer.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("vision", "text"),
    [
        ({"image_size": 2048, "patch_size": 16, "width": 64, "head_width": 1}, {}),
        ({"image_size": 2048, "layers": 1000}, {}),
        ({"attentional_pool": True, "attn_pooler_queries": 16_384}, {}),
        ({}, {"context_length": 4096, "heads": 64}),
        ({"timm_model_name": None, "image_size": 2048, "layers": 1000}, {}),
        ({"timm_model_name": "", "image_size": 2048, "layers": 1000}, {}),
        ({"attn_pooler_queries": None, "image_size": 2048, "layers": 1000}, {}),
        ({"image_size": 2048, "layers": [1, 1, 1, 1], "head_width": 1}, {}),
        ({}, {"context_length": 2048, "layers": 4096}),
        ({"mlp_ratio": 1e6}, {}),
        ({}, {"context_length": 4096, "mlp_ratio": 1000, "heads": 1}),
    ],
)
def test_the_attention_of_open_clips_towers_is_limited(
    vision: dict[str, Any], text: dict[str, Any], tmp_path: Path
) -> None:
    shape = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, **vision},
        "text_cfg": {"layers": 1, **text},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": shape}))
    save_file({"a": torch.zeros(40_000_000, dtype=torch.uint8)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=HEADS):
        load_encoder(replace(CLIP, model=tmp_path))


def test_what_decides_over_the_attention_of_open_clips_towers_is_a_number() -> None:
    for vision in ({"patch_size": [16, 16]}, {"width": None}, {"attentional_pool": True, "attn_pooler_queries": None}):
        with pytest.raises(ModelNameError, match="which is not a whole number; correct it"):
            open_clip_files._check_attention("theirs", {}, vision)


def test_the_attention_of_open_clips_architectures_is_accepted() -> None:
    for architecture in open_clip.list_models():
        settings = open_clip.get_model_config(architecture)
        open_clip_files._check_attention(architecture, settings["text_cfg"], settings["vision_cfg"])


def test_the_attention_of_published_models_is_accepted() -> None:
    for positions, heads, layers in (
        (1025, 16, 64),  # EVA-02-CLIP-E at 448 pixels
        (1025, 32, 32),  # EVA-CLIP-8B at 448
        (730, 16, 48),  # ViT-bigG/14 at 378
        (2048, 16, 27),  # SigLIP 2 so400m with 2,048 patches
        (512, 16, 24),  # XLM-R
    ):
        check_attention("ours", positions, heads, layers)


@pytest.mark.parametrize(
    "more",
    [
        {"text_tower": "transformer", "text_width": 2048, "context_length": 4096},
        {"text_tower": "transformer", "text_width": 32, "context_length": 2048, "text_layers": 4096},
    ],
)
def test_the_attention_of_a_dual_encoder_is_limited(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_limit, "_SPARE", 1 << 30)
    with pytest.raises(ModelError, match=HEADS):
        read_dual_encoder(changed(mini_folder(), tmp_path / "model", "config.json", more))


def test_the_images_of_a_dual_encoder_are_not_huge(tmp_path: Path) -> None:
    folder = changed(mini_folder(), tmp_path / "model", "config.json", {"image_size": 4000})
    with pytest.raises(ModelError, match="images with a side of 4,000 pixels, more than 2,048; correct the size"):
        read_dual_encoder(folder)


@pytest.mark.parametrize(
    ("network", "side", "said"),
    [
        (nn.Conv2d(3, 64, 3, padding=1), 2048, "take 268,435,456 values at a time"),
        (nn.Conv2d(3, 16, 255, padding=127), 2048, "and 13,091,261,644,800 multiplications"),
        (timm.create_model("vit_small_patch8_224", img_size=2048, depth=2), 2048, "and .* multiplications"),
        (nn.Conv2d(3, 64, 3, padding=1), 512, None),
    ],
    ids=["memory", "products", "attention", "published"],
)
def test_the_cost_of_an_image_is_counted_without_computing_it(network: nn.Module, side: int, said: str | None) -> None:
    with nullcontext() if said is None else pytest.raises(ModelNameError, match=said):
        check_image_cost("ours", network, lambda net, pixels: net(pixels), (side, side))
    assert network.training


@pytest.mark.parametrize("kind", ["align", "convnext"])
def test_the_cost_of_an_image_is_limited_where_settings_do_not_tell_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of few weights uses them at every place of an image."""
    monkeypatch.setattr(image_cost, "_MOST_VALUES", 1000)
    folder = tmp_path / "ours"
    if kind == "align":
        save_family("align", folder)
    elif kind == "convnext":
        save_open_clip("convnext", folder)
    with pytest.raises(ModelError, match=r"values at a time and .*; use smaller images or a smaller network"):
        load_encoder(replace(CLIP, model=folder))


def test_no_image_is_encoded_before_the_weights_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """densenet201 would take two gigabytes and minutes for an image of 2,048 pixels."""
    seen: list[str] = []
    conv = nn.Conv2d.forward

    def forward(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        seen.append("fake" if isinstance(x, FakeTensor) else x.device.type)
        return conv(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    more = {"image_tower": "densenet121", "image_size": 2048}
    with pytest.raises(ModelError, match="cannot be loaded: "):
        read_dual_encoder(changed(mini_folder(), tmp_path / "model", "config.json", more))
    assert set(seen) == {"fake"}, "shapes are computed, and values never"


@pytest.mark.parametrize("tower", ["resnet18", "timm/resnet18", "mobilenet_v3_small"])
def test_the_width_of_an_image_tower_is_that_of_its_features(tower: str) -> None:
    backbone = build_backbone(tower, 64)
    with torch.inference_mode():
        assert backbone.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, backbone.width)
    assert {value.device.type for value in backbone.state_dict().values()} == {"cpu"}


def test_modules_of_an_image_tower_may_be_shared() -> None:
    backbone = build_backbone("timm/coat_tiny", 224)
    assert backbone.width == 152
    found = backbone.eval()(torch.zeros(1, 3, 224, 224))
    assert found.shape == (1, 152), "the network is left as it was built"


@pytest.mark.parametrize("length", [10**7, 4097, 0, 64.0, True, "64"])
def test_the_captions_of_a_dual_encoder_are_not_huge(length: Any, tmp_path: Path) -> None:
    folder = changed(mini_folder(), tmp_path / "model", "config.json", {"context_length": length})
    with pytest.raises(ModelError, match=f"context_length={length!r} must be a whole number from 1 to 4,096"):
        read_dual_encoder(folder)


PARTS, LAYERS = (
    "self_attn|attention|attn|mlp|feed_forward|ffn|dense",
    "q_proj|k_proj|v_proj|o_proj|fc1|fc2|qkv|out_proj",
)


@pytest.mark.parametrize(
    "patterns",
    [
        {"target_modules": ["q_proj", "v_proj", "text_model.encoder.layers.0.mlp.fc1"] * 200},
        {"target_modules": "all-linear", "exclude_modules": None, "layers_pattern": "layers"},
        {"target_modules": r".*(q_proj|v_proj)", "exclude_modules": r"vision_model\..*", "modules_to_save": ["visual"]},
        {"target_modules": r".*\.(q|v)_proj", "feedforward_modules": r".*\.fc2"},
        {"target_modules": r"^(?!.*vision)(.*\.)?(encoder|decoder)\..*(?:q_proj|k_proj).*$"},
        {"target_modules": rf"(?:.*?(?:language|text).*?(?:{PARTS}).*?(?:{LAYERS}).*?)|(?:\blayers\.[\d]{{1,}}\.(?:{LAYERS}))"},
        {"rank_pattern": {rf"^text_model\.encoder\.layers\.{i}\..*\.\w+_proj": 4 for i in range(48)}, "alpha_pattern": {}},
        {"target_modules": r"(?:ab|cd)*(?:[0-9]|1[0-9])?\.self_attn\.[qkvo]_proj"},
    ],
)  # fmt: skip
def test_the_patterns_of_honest_adapters_are_accepted(patterns: dict[str, Any]) -> None:
    check_patterns("theirs", "adapter_config.json", {"bias": "(none", **patterns})


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"target_modules": [f"m{i}" for i in range(1_001)]}, "1,001 entries in target_modules .* at most 1,000"),
        ({"alpha_pattern": {f"m{i}": 4 for i in range(501)}}, "501 entries in alpha_pattern .* at most 500"),
    ],
)
def test_many_patterns_are_refused(patterns: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelNameError, match=said):
        check_patterns("theirs", "adapter_config.json", patterns)


@pytest.mark.parametrize(
    "pattern",
    [
        r"([a-z_]+)*!", r"(([a-z_0-9]|\.)+)+!", r"(\w?)*!", "(?:.{0,40}){0,40}!", "(?=(a+)+$)a", "(?>(a+)+)b", "(a+)++b",
        "(a|a)*b", "(?:a|ab)*c", "(?i)(?:ab|AB)*c", "(?(1)a+|b)*c", ".*" * 5 + "x", "a?" * 30 + "a" * 30,
        "(?:ab|ab.)" * 30 + "x", "a+)+(b", "*a", "(" * 5000 + ")" * 5000, "a" * 30_000,
        "(?:(?=.)){4000000000}q", r"(?:\b){4000000000}.*", "(){4000000000}", "(?:a?|b){3}",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "key", ["target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern", "layers_pattern"]
)
def test_a_pattern_that_could_take_forever_is_refused(key: str, pattern: str, tmp_path: Path) -> None:
    base = {"base_model_name_or_path": "o/base", "peft_type": "LORA"}
    (tmp_path / "adapter_model.safetensors").touch()
    for value in ({pattern: 4},) if key in ("rank_pattern", "alpha_pattern") else (pattern, [pattern]):
        (tmp_path / "adapter_config.json").write_text(json.dumps(base | {key: value}))
        with pytest.raises(ModelNameError, match=f"theirs has {key} .* not a valid regular expression or may take too"):
            base_of("theirs", tmp_path)


def test_patterns_are_limited_together() -> None:
    patterns = {f"layers.{i}" + ".*" * 3: 4 for i in range(500)}
    with pytest.raises(ModelNameError, match="may take too long"):
        check_patterns("theirs", "adapter_config.json", {"rank_pattern": patterns})


def test_what_a_model_says_of_itself_does_nothing_to_a_terminal() -> None:
    with pytest.raises(ModelNameError) as caught:
        check_type("theirs", {"model_type": "k\x1b]0;owned\x07\x1b[2J\u202e"})
    assert str(caught.value).isprintable()
    assert str(ModelError("two\nlines \x1b[2J")) == "two\nlines \\x1b[2J"


def test_only_names_that_may_be_on_a_network_share_are_taken_for_such(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [
        "",
        "mini",
        "openai/clip-vit-base-patch32",
        "C:/models/m",
        r"C:\models\m",
        "hf-hub:org/name",
        "open_clip:ViT//C:/m.pt",
    ]
    shares = [r"\\host\share", "//host/share/m", r"local-dir:\\host\m", "open_clip:ViT-B-32////host/m.pt"]
    assert not any(map(on_network_share, [*usual, "//only/a/path/here"]))  # not a share on this system
    monkeypatch.setattr("text_image_similarity.encoders.load.model_folder", PureWindowsPath)
    assert [name for name in (*usual, *shares) if on_network_share(name)] == shares
