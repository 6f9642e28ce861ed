"""Find the settings, weights and tokenizer of an open_clip model, on this disk or on the hub.

Weights must be safetensors. A pickled file is read only if its full SHA-256 is in open_clip's table of weights, and
even then without running code. Any other file of weights is refused with advice. Settings are checked too, because
`open_clip_config.json` and weights from the hub are not trusted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ModelError, ModelNameError
from ..preprocess import check_sides
from .attention_cost import check_attention, check_mlp, check_text_attention
from .fingerprint import fingerprint_of
from .kinds import pickled_advice
from .open_clip_names import CONFIG, OpenClipName, check_architecture, check_tag
from .open_clip_options import check_options
from .settings_files import MOST_CONTEXT, MOST_WIDTH, check_settings, check_values, is_context, read_settings
from .token_growth import check_tokenizers

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "vocab.txt",
)
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
_TEXT_TOWERS = ("bert", "m2m_100", "mt5", "roberta", "xlm-roberta")  # those that open_clip supports
_PATTERNS = ("tokenizer*.json", "special_tokens_map.json", "vocab*", "merges.txt", "*.model", "added_tokens.json")


_CONTEXT = 77  # context length of a text tower whose settings do not state it
_COUNTED = {"vocab_size"}  # the table of this size is counted before it is filled
_TABLE = re.compile("position|d_model|hidden_size")  # settings that determine the size of a table of positions


@dataclass(frozen=True, slots=True)
class OpenClipFiles:
    """The files and settings of a model.

    Args:
        name: The model's name as the user gave it.
        model: open_clip's `model_cfg`, in which names of other hub models are replaced by their local folders.
        preprocess: Preprocessing settings that differ from open_clip's defaults.
        weights: The file of weights.
        tokenizer: Folder of the tokenizer, or None for CLIP's own.
        commit: Commit on the hub, or None.
    """

    name: str
    model: Mapping[str, Any]
    weights: Path
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | None = None
    commit: str | None = None

    def fingerprint(self) -> str:
        """Return a hash of everything that the embeddings depend on."""
        settings = {"model": _without_paths(self.model), "preprocess": dict(self.preprocess)}
        files = [self.weights]
        if self.tokenizer is not None:
            files += sorted({path for pattern in _PATTERNS for path in self.tokenizer.glob(pattern) if path.is_file()})
        return fingerprint_of(files, json.dumps(settings, sort_keys=True, default=str))


def find_open_clip(name: str, parsed: OpenClipName, revision: str | None) -> OpenClipFiles:
    """Find the files of a model, and fetch those from the hub that are not in its cache.

    Args:
        name: The model's name as the user gave it.
        parsed: The same name, parsed.
        revision: Commit, tag or branch on the hub.

    Raises:
        ModelNameError: The architecture, tag, file or hub model does not exist, or is of another kind.
        ModelUnavailableError: The hub cannot be reached.
        ModelError: The model's settings cannot be used.
    """
    commit, beside = None, None
    if parsed.architecture is not None:
        check_architecture(name, parsed.architecture)
        if parsed.tag is not None:
            check_tag(name, parsed.architecture, parsed.tag)
    if parsed.architecture is not None and parsed.file is not None:
        from .open_clip_table import architecture_settings, twin_problem

        model, preprocess = architecture_settings(name, parsed.architecture)
        weights, beside = parsed.file, parsed.file.parent
        if problem := twin_problem(parsed.architecture, weights):
            raise ModelNameError(f"model {name}: {problem}")
        _check_pickle(name, weights)
    elif parsed.architecture is not None:
        from .open_clip_table import tag_settings

        model, preprocess, repository, file = tag_settings(name, parsed.architecture, str(parsed.tag))
        weights = _hub_weights(repository, file, revision)
        commit = _commit(weights)
    elif parsed.folder is not None:
        model, preprocess = _settings(name, parsed.folder / CONFIG)
        weights, beside = _folder_weights(name, parsed.folder), parsed.folder
    else:
        from .hub import fetch_file

        model, preprocess = _settings(name, fetch_file(str(parsed.hub), [CONFIG], revision))
        weights = _hub_weights(str(parsed.hub), None, revision)
        commit = _commit(weights)
    _check_settings(name, model)
    _check_attention(name, model["text_cfg"], model["vision_cfg"])
    text = dict(model["text_cfg"])
    tokenizer = None
    if wanted := text.get("hf_tokenizer_name"):
        own = beside is not None and any((beside / file).is_file() for file in _TOKENIZER_FILES)
        tokenizer = beside if own and beside is not None else _hub_tokenizer(str(wanted))
        check_settings(f"the tokenizer of {name}", tokenizer)
        check_tokenizers(name, tokenizer)
    if wanted := text.get("hf_model_name"):
        text["hf_model_name"] = str(_text_settings(name, str(wanted), text.get("context_length") or _CONTEXT))
    return OpenClipFiles(name, {**model, "text_cfg": text}, weights, preprocess, tokenizer, commit)


def _settings(name: str, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        found = read_settings(path)
        check_values(name, CONFIG, found)
        return dict(found["model_cfg"]), dict(found.get("preprocess_cfg") or {})
    except ModelError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as exc:
        raise ModelError(f"the {CONFIG} of {name} cannot be read: {type(exc).__name__}: {exc}") from exc


def _check_settings(name: str, model: Mapping[str, Any]) -> None:
    """Refuse settings that would let an untrusted file decide what this process loads or runs."""
    text, vision = model.get("text_cfg"), model.get("vision_cfg")
    if not isinstance(text, Mapping) or not isinstance(vision, Mapping) or "embed_dim" not in model:
        raise ModelError(f"the settings of {name} lack embed_dim, vision_cfg or text_cfg")
    if ":" in str(vision.get("timm_model_name", "")):
        raise ModelError(f"the settings of {name} would fetch an image tower from elsewhere, which is not supported")
    given = vision.get("image_size", 0)
    sizes = given if isinstance(given, list) else [given]
    check_sides(*sizes)
    lengths = [part.get("context_length") for part in (text, model.get("multimodal_cfg")) if isinstance(part, Mapping)]
    if not all(length is None or is_context(length) for length in lengths):
        raise ModelError(
            f"the settings of {name} have a context_length that is not a whole number from 1 to {MOST_CONTEXT:,} tokens; correct it"
        )
    patch = vision.get("patch_size")
    patches = (max(sizes) // patch) ** 2 if isinstance(patch, int) and patch > 0 else 0
    _check_widths(name, [patches, *(number for key, number in _numbers(model) if key not in _COUNTED)])
    check_options(name, text)


def _check_attention(name: str, text: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
    """Check the attention of the towers that open_clip builds itself, using its defaults for missing settings."""
    length = text.get("context_length") or _CONTEXT
    check_attention(f"the text tower of {name}", length + 1, text.get("heads", 8), text.get("layers", 12))
    check_mlp(f"the text tower of {name}", length + 1, _hidden(text, 512))
    if vision.get("timm_model_name"):
        return
    defaults = {"layers": 12, "width": 768, "head_width": 64, "patch_size": 16, "attn_pooler_queries": 256}
    found = {**defaults, **vision}
    is_resnet = isinstance(found["layers"], list)
    unused = {"layers", "patch_size"} if is_resnet else set()
    unused |= set() if vision.get("attentional_pool") else {"attn_pooler_queries"}
    for key in defaults.keys() - unused:
        if not isinstance(found[key], int):
            raise ModelNameError(
                f"the settings of {name} have {key} {found[key]!r:.50}, which is not a whole number; correct it"
            )
    side = vision.get("image_size", 224)
    longest, tower = max(side if isinstance(side, list) else [side]), f"the image tower of {name}"
    heads = found["width"] // max(1, found["head_width"])
    if is_resnet:  # its only attention is at its end, where it is 32 times as wide
        check_attention(tower, (longest // 32) ** 2 + 1, 32 * heads, 1)
        return
    patches = (longest // max(1, found["patch_size"])) ** 2
    check_attention(tower, patches + 1, heads, found["layers"])
    check_mlp(tower, patches + 1, _hidden(vision, 768))
    if vision.get("attentional_pool"):
        pooler = vision.get("attn_pooler_heads", 8)
        check_attention(tower, max(patches + 1, found["attn_pooler_queries"]), pooler, 1)


def _hidden(tower: Mapping[str, Any], own_width: int) -> Any:
    """Return the width of a tower's MLPs as open_clip computes it, or a value that is not a number."""
    width, ratio = tower.get("width", own_width), tower.get("mlp_ratio", 4.0)
    numbers = isinstance(width, (int, float)) and isinstance(ratio, (int, float))
    return width * ratio if numbers else (width, ratio)


def _check_widths(name: str, widths: Iterable[int]) -> None:
    """Refuse numbers so large that a library would fill a huge table before its weights can be counted."""
    if any(width > MOST_WIDTH for width in widths):
        raise ModelError(f"the settings of {name} have a width or another number above {MOST_WIDTH:,}; correct it")


def _numbers(settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int):
            yield key, value


def _folder_weights(name: str, folder: Path) -> Path:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    tensors = [file for file in files if file.endswith(".safetensors")]
    chosen = next((file for file in _WEIGHTS if file in tensors), tensors[0] if len(tensors) == 1 else None)
    if chosen is not None:
        return folder / chosen
    if tensors:
        raise ModelNameError(
            f"{name} holds several weight files, {', '.join(tensors[:3])}; rename one to open_clip_model.safetensors"
        )
    pickled = [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
    if not pickled:
        raise ModelNameError(f"{name} has an {CONFIG} but no weights; add open_clip_model.safetensors")
    _check_pickle(name, folder / pickled[0])
    return folder / pickled[0]


def _check_pickle(name: str, weights: Path) -> None:
    """Refuse a pickle whose full SHA-256 is not in open_clip's table."""
    if weights.suffix == ".safetensors":
        return
    from .open_clip_table import weight_hashes

    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found not in weight_hashes():
        raise ModelNameError(f"model {name}: {pickled_advice(weights)}")


def _hub_weights(repository: str, file: str | None, revision: str | None) -> Path:
    from .hub import fetch_file

    own = [f"{file.rpartition('.')[0]}.safetensors"] if file else []
    return fetch_file(repository, [*dict.fromkeys([*own, *_WEIGHTS[:2]])], revision)


def _hub_tokenizer(repository: str) -> Path:
    from .hub import fetch_folder

    return fetch_folder(repository, _TOKENIZER_FILES, _PATTERNS)


def _text_settings(name: str, repository: str, context: int) -> Path:
    """Return the folder that holds a text tower's `config.json`; the tower's weights come with the model."""
    from .hub import fetch_file

    path = fetch_file(repository, ["config.json"], None)
    tower = f"the text tower of {name}, {repository}"
    check_settings(tower, path.parent)
    found = read_settings(path)
    kind = found.get("model_type") if isinstance(found, Mapping) else None
    if kind not in _TEXT_TOWERS:
        said = "names no model_type" if kind is None else f"is a {kind} model"
        raise ModelError(f"{tower}, {said}; open_clip supports {', '.join(_TEXT_TOWERS)}")
    _check_widths(tower, (number for key, number in _numbers(found) if _TABLE.search(key)))
    check_text_attention(tower, context, found)
    return path.parent


def _commit(path: Path) -> str | None:
    return path.parent.name if path.parent.parent.name == "snapshots" else None


def _without_paths(model: Mapping[str, Any]) -> dict[str, Any]:
    text = dict(model["text_cfg"])
    if place := text.get("hf_model_name"):
        config = Path(str(place)) / "config.json"
        text["hf_model_name"] = config.read_text(encoding="utf-8") if config.is_file() else str(place)
    return {**model, "text_cfg": text}
