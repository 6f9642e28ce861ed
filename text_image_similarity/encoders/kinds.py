"""Recognise models that can be loaded, and explain why others cannot, from file names and `config.json` alone.

For a kind of model that people commonly try, the error names that kind and says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelNameError
from .adapters import base_of
from .open_clip_names import CONFIG
from .settings_files import check_settings, read_settings

# Families of transformers, all tested. Settings cannot replace the two towers that a family builds.
FAMILIES = ("clip", "siglip", "siglip2", "metaclip_2", "chinese_clip", "altclip", "align")
OWN = "dual_encoder"  # written by `train`
OPEN_CLIP = "open_clip"
ADAPTER = "adapter"  # a PEFT adapter for another model
EXPORTED = "exported"  # written by `export`
MANIFESTS = {"web": "export.json"}  # by format, for exports whose config.json belongs to another library
_WEIGHTS = {"model.safetensors", "model.safetensors.index.json"}
_PREPROCESSING = {"preprocessor_config.json", "processor_config.json"}
_TOKENIZERS = {"tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "vocab.txt"}
_OTHER_WEIGHTS = r"(?!optimizer|rng_state|scaler|scheduler|training_args).*\.(bin|ckpt|gguf|h5|msgpack|onnx|pth?)"
_POINTER = b"version https://git-lfs"
_LAYOUT = (
    "this package loads CLIP, SigLIP, MetaCLIP 2, Chinese-CLIP, AltCLIP and ALIGN models saved by transformers, open_clip models, "
    "and models created by `train`"
)
NO_OWN_CODE = (
    "needs code that comes with it, and such code is never run here (trust_remote_code is off); use a model of a family that "
    "transformers supports natively"
)
# Files that identify the kind of a model without config.json.
_KINDS = {
    r"open_clip_.*": f"holds open_clip weights without {CONFIG}, which names their architecture; add it, or use "
    "open_clip:ARCHITECTURE//PATH",
    r"model_index\.json": f"is a diffusers pipeline; {_LAYOUT}",
    r"modules\.json|config_sentence_transformers\.json": "is a sentence-transformers model without a CLIP model in it; "
    f"{_LAYOUT}",
    r"encoder\.json": "is an incomplete export of a model; use the model that it was exported from",
    r"checkpoint\.safetensors": "holds a training run that has not finished an epoch; continue it with `train --resume`",
    r"global_step\d+|zero_to_fp32\.py|pytorch_model_fsdp.*|.*\.distcp": "is the state of a sharded training run; save the model "
    "itself with save_pretrained",
    r"reference\.safetensors": "is an incomplete export: it lacks config.json; copy it again, or export its source again",
    r"refs|snapshots": "is a folder of the hub's cache without the model's files; run `hf download`, and use the model's name",
    r"models--.*": "is the hub's cache, not a model; use the model's name",
    r".*\.onnx": f"holds graphs exported by another tool; {_LAYOUT}",
    r".*\.(ckpt|pth?|bin)": "holds a pickled checkpoint and no config.json; pickles are not loaded, and "
    f"{_LAYOUT}",
}  # fmt: skip
_TYPES = {
    **dict.fromkeys(
        ("clip_vision_model", "clip_text_model", "siglip_vision_model", "siglip_text_model"),
        "one tower of a model; use the complete model",
    ),
}


def check_folder(name: str, folder: Path) -> dict[str, Any]:
    """Check, by the names of its files, that a folder holds a model that can be loaded.

    Args:
        name: The folder's name as the user gave it, for messages.
        folder: The folder, which exists.

    Returns:
        The contents of the folder's `config.json`; only `model_type` for exports, adapters and models in open_clip's
        layout.

    Raises:
        ModelNameError: The folder holds no such model; the message says what it holds instead, and what to do.
    """
    try:
        files = _names_in(name, folder)
        shape: Any = read_settings(folder / "config.json") if "config.json" in files else None
    except OSError as exc:
        raise ModelNameError(f"the model folder {name} cannot be read: {exc}") from exc
    except ValueError as exc:
        raise ModelNameError(f"{name} is not a model folder: its config.json cannot be read ({exc})") from exc
    if files & set(MANIFESTS.values()):
        return {"model_type": EXPORTED}
    if "adapter_config.json" in files:
        base_of(name, folder)
        return {"model_type": ADAPTER}
    if "config.json" not in files and CONFIG in files:
        _check_pointers(name, folder)
        return {"model_type": OPEN_CLIP}
    if "config.json" not in files:
        raise ModelNameError(f"{name} {_inside(name, folder) or _other_kind(files)}")
    check_type(name, shape)
    if shape["model_type"] == EXPORTED:
        return {"model_type": EXPORTED}
    if shape["model_type"] != OWN:
        check_settings(name, folder)
        _check_complete(name, files)
    elif lacking := [file for file in ("model.safetensors", "tokenizer.json") if file not in files]:
        raise ModelNameError(
            f"{name} is not complete: it lacks {' and '.join(lacking)}, which `train` writes next to config.json"
        )
    _check_pointers(name, folder)
    found: dict[str, Any] = shape
    return found


def _names_in(name: str, folder: Path) -> set[str]:
    """Return the names in a model's folder, none of which may be a pipe or a device, whose reading may never end."""
    paths = list(folder.iterdir())
    if odd := [path.name for path in paths if not (path.name[0] == "." or path.is_file() or path.is_dir())]:
        raise ModelNameError(f"{min(odd)} in the model folder {name} is not a regular file; remove it")
    return {path.name for path in paths}


def is_export(folder: Path) -> bool:
    """Return whether a folder is an export, even if it is incomplete."""
    for name in ("config.json", *MANIFESTS.values()):
        try:
            found = read_settings(folder / name)
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("model_type") == EXPORTED:
            return True
    return False


def check_type(name: str, shape: object) -> None:
    """Check that a `config.json` belongs to a model that can be loaded.

    Raises:
        ModelNameError: The file belongs to a model of another kind.
    """
    shape = shape if isinstance(shape, Mapping) else {}
    kind = shape.get("model_type")
    kind = kind if kind is None else str(kind)[:100]
    if kind in (*FAMILIES, OWN, EXPORTED):
        return
    if "auto_map" in shape:
        raise ModelNameError(f"{name} is a model{f' of type {kind}' if kind else ''}, which {NO_OWN_CODE}")
    if kind is None and "model_cfg" in shape:
        raise ModelNameError(f"{name} has open_clip's settings in its config.json; rename that file to {CONFIG}")
    if kind is None:
        known = f"a timm model ({shape['architecture']})" if "architecture" in shape else "of an unknown kind"
        raise ModelNameError(f"{name} is {known}: its config.json names no model_type; {_LAYOUT}")
    raise ModelNameError(f"{name} is {_TYPES.get(kind, f'a {kind} model; {_LAYOUT}')}")


def check_listing(name: str, files: Collection[str]) -> None:
    """Check from the paths of a hub model's files that the model can be loaded.

    Raises:
        ModelNameError: The model is of another kind.
    """
    top = {path.partition("/")[0] for path in files}
    if "adapter_config.json" in top:
        raise ModelNameError(
            f"{name} holds a PEFT adapter; fetch it and use its folder: `hf download {name} --local-dir FOLDER`"
        )
    if clip := next((path for path in files if re.fullmatch(r"[^/]*CLIPModel/config\.json", path)), None):
        raise ModelNameError(
            f"{name} is a sentence-transformers model; its CLIP model is in a subfolder; run "
            f"`hf download {name} --local-dir FOLDER`, and use FOLDER/{clip.partition('/')[0]}"
        )
    if top and "config.json" not in top and CONFIG not in top:
        raise ModelNameError(f"{name} {_other_kind(top)}")


def check_weights(name: str, files: Collection[str]) -> None:
    """Refuse a model whose only weights are pickled or belong to another framework.

    Raises:
        ModelNameError: Such weights exist, but no safetensors file.
    """
    others = sorted(file for file in files if re.fullmatch(_OTHER_WEIGHTS, file))
    if not others or _WEIGHTS & set(files):
        return
    if not re.fullmatch(r".*\.(bin|ckpt|pth?)", others[0]):
        raise ModelNameError(
            f"{name} holds its weights only as {others[0]}, which belongs to another framework; {_LAYOUT}"
        )
    raise ModelNameError(
        f"{name} holds its weights only as {others[0]}, a pickle, which may run code when it is read; if you trust it, convert "
        "it to model.safetensors once: "
        f"""python -c "from transformers import AutoModel as M; M.from_pretrained({name!r}).save_pretrained('FOLDER')\""""
        ", and add the files of the tokenizer and the image processor"
    )


def pickled_advice(weights: Path) -> str:
    """Return a message that says why pickled open_clip weights are refused, and how to convert them to safetensors."""
    made = weights.with_suffix(".safetensors")
    return (
        f"{weights} is a pickle whose full SHA-256 is not in open_clip's table, and pickles may run code when they are read; "
        "open_clip:ARCHITECTURE/TAG fetches published weights as safetensors; if you trust this file, convert it once: "
        f"""python -c "import torch, safetensors.torch as s; d = torch.load({str(weights)!r}, weights_only=True); """
        f"""s.save_file({{k: v.contiguous() for k, v in d.get('state_dict', d).items()}}, {str(made)!r})\""""
    )


def _check_complete(name: str, files: set[str]) -> None:
    check_weights(name, files)
    lacking = [
        what
        for what, options in (
            ("model.safetensors", _WEIGHTS),
            ("preprocessor_config.json", _PREPROCESSING),
            ("tokenizer.json or other tokenizer files", _TOKENIZERS),
        )
        if not options & files
    ]
    if "model.safetensors" in lacking:
        raise ModelNameError(f"{name} has a config.json but no weights; it lacks {' and '.join(lacking)}")
    if lacking:
        cause = ", like a Trainer checkpoint saved without the processor" if "trainer_state.json" in files else ""
        raise ModelNameError(
            f"{name} lacks {' and '.join(lacking)}{cause}; save those of the model that it was trained from: "
            f"AutoProcessor.from_pretrained(base).save_pretrained({name!r})"
        )


def _check_pointers(name: str, folder: Path) -> None:
    for weights in folder.glob("*.safetensors"):
        with weights.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ModelNameError(f"{name} holds Git LFS pointers instead of weights; run `git lfs pull` there")


def _inside(name: str, folder: Path) -> str | None:
    """Return a message that names the model's folder inside this one, or None if there is none."""
    models = sorted(path.parent.relative_to(folder) for path in folder.glob("*/config.json"))
    models += sorted(path.parent.relative_to(folder) for path in folder.glob("snapshots/*/config.json"))
    if not models:
        return None
    numbered = {int(match[1]): at for at in models if (match := re.fullmatch(r"checkpoint-(\d+)", str(at)))}
    chosen = numbered[max(numbered)] if numbered else models[-1]
    clips = [at for at in models if str(at).endswith("CLIPModel")]
    if clips:
        kind, chosen = "is a sentence-transformers model", clips[0]
    elif numbered:
        kind = "holds a Trainer's checkpoints"
    elif chosen.parts[0] == "snapshots":
        kind = "is a model's folder in the hub's cache"
    elif (folder / "model_index.json").exists():
        return None
    else:
        return f"is not a model folder: it has no config.json; did you mean {str(Path(name) / chosen)!r}?"
    return f"{kind}; the model is in {Path(name) / chosen}; use that folder"


def _other_kind(files: Collection[str]) -> str:
    if not files:
        return "is an empty folder"
    for pattern, said in _KINDS.items():
        if any(re.fullmatch(pattern, file) for file in files):
            return said
    return f"is not a model folder: it has no config.json; {_LAYOUT}"
