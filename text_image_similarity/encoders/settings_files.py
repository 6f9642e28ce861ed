"""Read the JSON settings next to a model's weights, within limits, and refuse settings that are not safe.

In such files, transformers, open_clip, timm and peft find classes to build, other files to open and code to fetch.
Model folders are not trusted, so a setting that refers to anything outside the folder is refused, at any depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..bounded_json import JsonLimitError, parse_json
from ..errors import ModelNameError

# The files that these libraries read as settings: all JSON except vocabularies, which may be large and name nothing.
SETTINGS = ("*config.json", "special_tokens_map.json", "added_tokens.json", "*.index.json")
TOKENIZERS = ("tokenizer*.json", "*.model")  # files of a tokenizer with steps that change captions
MOST_CONTEXT = 4096  # context length, in tokens; the size of a mask is its square
MOST_WIDTH = 16_384  # width of an open_clip model's layers; also the largest number of patches, positions or queries
# Files of mistral-common and tiktoken, in small letters.
_OTHER_TOKENIZERS = re.compile(r"tekken.*\.json$|tiktoken|^tokenizer\.model\.")
_MOST_BYTES = 16 << 20
_MOST_DEPTH = 32
# Libraries fill tables of these sizes before any weights are read.
_MOST_NUMBER = 1 << 24  # a whole number in config.json; the largest vocabularies have about a million tokens
_MOST_LABELS = 32_768  # ImageNet-21k has 21,843
_LABELS = re.compile("_?(num_labels|num_classes)")
_CODE = "auto_map"
_ELSEWHERE = {
    *("backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone"),
    # Weights, which follow other rules.
    *("checkpoint_path", "model_args", "pretrained", "gguf_file", "transformers_weights"),
    *("configuration_files", "fast_tokenizer_files", "init_inputs"),  # settings other than those checked here
    *("class_info_file", "repo_path"),
    "model_file",  # SentencePiece's, in `sp_model_kwargs`
    *("quantization_config", "use_kernels"),  # code from other libraries and from the hub
}
# Files of a tokenizer, which some versions of transformers open wherever they are.
_VOCABULARIES = {
    "vocab_file",
    "merges_file",
    "tokenizer_file",
    "spm_file",
    "source_spm",
    "target_spm",
    "target_vocab_file",
}
_CONTENTS = ("vocab", "merges")  # of a tokenizer; a string is the path of a file
_PRETRAINED = "pretrained_cfg"  # timm's key; others may begin with it
_NAME = re.compile(r"(?!\.\.?$)[\w.-]+")  # of a file in the same folder
_ATTENTION = re.compile("_?attn_implementation(_internal)?")
_ATTENTIONS = (None, "eager", "sdpa")  # others come from the hub if a library is missing
_PROCESSORS = re.compile(
    "((CLIP|ChineseCLIP|Siglip2?|EfficientNet|ViT|Bit|DeiT)(ImageProcessor|FeatureExtractor)(Fast|Pil)?)"
)
_TOKENIZER_CLASSES = re.compile(
    "((Bert|CLIP|DistilBert|GPT2|Gemma|Llama|M2M100|MPNet|MT5|Nllb|Roberta|Siglip2?|T5|XLMRoberta)Tokenizer(Fast)?)"
    "|PreTrainedTokenizer(Fast)?|TokenizersBackend|PythonBackend"
)
_CLASSES = {
    "image_processor_type": _PROCESSORS,
    "feature_extractor_type": _PROCESSORS,
    "tokenizer_class": _TOKENIZER_CLASSES,
}


def read_settings(path: Path) -> Any:
    """Return the contents of a settings file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not JSON in UTF-8, or is larger or nested more deeply than any model's settings.
    """
    if not path.is_file():  # a pipe, for example, which could be read forever
        raise FileNotFoundError(f"{path} is not a regular file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise JsonLimitError(f"it has more than {_MOST_BYTES >> 20} MiB")
    found = parse_json(content.decode("utf-8"))
    if any(depth > _MOST_DEPTH for depth, _, _ in _members(found)):
        raise JsonLimitError(f"it is nested more than {_MOST_DEPTH} levels deep")
    return found


def is_context(length: Any) -> bool:
    """Return whether a value is a whole number from 1 to `MOST_CONTEXT`."""
    return isinstance(length, int) and not isinstance(length, bool) and 1 <= length <= MOST_CONTEXT


def check_settings(name: str, folder: Path) -> None:
    """Check that a model's settings refer only to its own folder, and that its weights are safetensors.

    Args:
        name: The model's name as the user gave it, for messages.
        folder: Folder with the model's files; some may be missing.

    Raises:
        ModelNameError: A setting refers to code, files or hub models elsewhere, or is too large; a file cannot be
            read; or the tokenizer is of a kind that is not supported. The message names the file and the key.
    """
    for path in sorted(folder.glob("*")):
        if _OTHER_TOKENIZERS.search(path.name.casefold()):
            raise ModelNameError(
                f"{name} has a {path.name}, from which transformers would build a tokenizer of another kind, which is not "
                "supported; remove the file, and use a tokenizer.json"
            )
    for path in sorted({path for pattern in SETTINGS for path in folder.glob(pattern)}):
        try:
            found = read_settings(path)
        except (OSError, ValueError) as exc:
            raise ModelNameError(f"the {path.name} of {name} cannot be read: {exc}") from exc
        check_values(name, path.name, found)
        if path.name == "config.json":
            _check_numbers(name, found)
        # Transformers would apply the adapter, regardless of the base and weights that it names.
        if path.name == "adapter_config.json":
            raise ModelNameError(
                f"{name} holds a PEFT adapter next to a model; move it to a separate folder, and use that folder"
            )
        if path.name.endswith(".safetensors.index.json"):
            _check_index(name, path, found)


def check_values(name: str, file: str, found: Any) -> None:
    """Check that a file's settings refer to no code, files or hub models outside the model's folder.

    Args:
        name: The model's name as the user gave it, for messages.
        file: The file's name.
        found: The file's contents, as `read_settings` returned them.

    Raises:
        ModelNameError: A setting refers to code, files or hub models elsewhere.
    """
    for _, key, value in _members(found):
        if key is None or (not value and key != _CODE):
            continue
        if key == _CODE:
            raise ModelNameError(
                f"{name} has {key} in its {file}, which names code that comes with the model, and such code is never run here "
                f"(trust_remote_code is off); if the model does not need it, remove {key} from the file"
            )
        if key in _ELSEWHERE or key.startswith(_PRETRAINED) or (key in _CONTENTS and isinstance(value, str)):
            raise ModelNameError(
                f"{name} has {key:.100} in its {file}, which would make a library open files or run code from "
                "elsewhere; a model is read only from its own folder, so remove this setting if the model does not "
                "need it"
            )
        if key in _VOCABULARIES and isinstance(value, str) and not _is_beside(key, value):
            raise ModelNameError(
                f"{name} has {key} {value!r:.100} in its {file}, which is not the name of a tokenizer file in the same "
                "folder; remove this setting"
            )
        if _ATTENTION.fullmatch(key) and not _known_attention(value):
            raise ModelNameError(
                f"{name} has {key} {value!r:.100} in its {file}, which may be code from the hub; use eager or sdpa, or "
                "remove this setting"
            )
        if key in _CLASSES and not (isinstance(value, str) and _CLASSES[key].fullmatch(value)):
            raise ModelNameError(f"{name} has {key} {value!r:.100} in its {file}, which this package does not support")


def _check_numbers(name: str, found: Any) -> None:
    for _, key, value in _members(found):
        most = _MOST_LABELS if key is not None and _LABELS.fullmatch(key) else _MOST_NUMBER
        if isinstance(value, int) and value > most:
            raise ModelNameError(
                f"{name} has {f'{key:.100} ' if key else ''}{value!r:.100} in its config.json, but numbers there may be at "
                f"most {most:,}; correct it"
            )


def _members(found: Any) -> Iterator[tuple[int, str | None, Any]]:
    """Yield every value inside a JSON value, with its depth, counted from 0, and its key."""
    waiting: list[tuple[int, str | None, Any]] = [(0, None, found)]
    while waiting:
        depth, key, value = waiting.pop()
        yield depth, key, value
        if isinstance(value, dict):
            waiting += ((depth + 1, inner, each) for inner, each in value.items())
        elif isinstance(value, list):
            waiting += ((depth + 1, None, each) for each in value)


def _is_beside(key: str, file: str) -> bool:
    """Return whether a file of a tokenizer is next to the settings, where its contents are checked if they are JSON."""
    return file == "tokenizer.json" if key == "tokenizer_file" else _NAME.fullmatch(file) is not None


def _known_attention(value: Any) -> bool:
    return all(way in _ATTENTIONS for way in (value.values() if isinstance(value, dict) else [value]))


def _check_index(name: str, path: Path, found: Any) -> None:
    """Refuse an index of weights that lists anything but safetensors; transformers would read others as pickles."""
    files = found.get("weight_map") if isinstance(found, Mapping) else None
    if not isinstance(files, Mapping) or not files:
        raise ModelNameError(f"the {path.name} of {name} has no weight_map")
    for file in sorted(set(map(str, files.values()))):
        if not _NAME.fullmatch(file) or not file.endswith(".safetensors"):
            raise ModelNameError(
                f"the {path.name} of {name} names {file!r:.100}, which is not a .safetensors file next to it; pickles are not loaded"
            )
