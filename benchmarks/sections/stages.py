"""Measure where the time of a run goes: each stage within the run, and alone on all cores at full speed (its limit).

All stages share the cores, so a run that overlaps them perfectly takes the sum of the limits. For ViT-B/32 in FP32, the
encoder's own limit is the rate of the fastest matrix product measured here, divided by the operations per pair.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from text_image_similarity import load_encoder
from text_image_similarity.decode import decode
from text_image_similarity.fetch import Fetcher

from ..inputs import MODEL, read_rows, warm
from ..job import Job
from ..results import Options, Rounds, Section, at, markdown, mid, rate
from ..scoring import MINI, VIT, config_of

STAGES = ("fetch", "decode", "tokenize", "encode_image", "encode_text")
_ENCODERS = ("encode_image", "encode_text")
_NAMES = {VIT: "ViT-B/32", MINI: "mini"}
_PRODUCT = (1600, 768, 3072)  # shape of the feed-forward layers, for 32 images of 50 patches
_GFLOP_A_PICTURE = 8.73  # ViT-B/32 at 224x224, multiplications and additions
_LAYERS, _WIDTH = 12, 512  # layers and width of the text tower


def alone(model: str, pairs: int) -> dict[str, Any]:
    """Time each stage alone on the rows of a run."""
    config = config_of(model)
    encoder, fetcher, cores = load_encoder(config), Fetcher(config), os.cpu_count() or 1
    rows = read_rows("pairs.csv", pairs)
    warm(rows)

    def prepare(content: bytes) -> Any:
        return encoder.prepare(decode(content, config.limits, shorter_side=encoder.decode_side))

    def in_batches(encode: Callable[[list[Any]], Any], items: list[Any]) -> None:
        for start in range(0, len(items), config.batch_size):
            encode(items[start : start + config.batch_size])

    seconds = {}
    contents, seconds["fetch"] = _timed(
        lambda: _on_threads(fetcher.fetch, [row.url for row in rows], config.io_workers)
    )
    pixels, seconds["decode"] = _timed(lambda: _on_threads(prepare, contents, cores))
    tokens, seconds["tokenize"] = _timed(lambda: list(encoder.tokenize([row.caption for row in rows])))
    for encode, items in ((encoder.encode_pixels, pixels), (encoder.encode_tokens, tokens)):
        in_batches(encode, items[: config.batch_size])  # warms up
    _, seconds["encode_image"] = _timed(lambda: in_batches(encoder.encode_pixels, pixels))
    _, seconds["encode_text"] = _timed(lambda: in_batches(encoder.encode_tokens, tokens))
    return {"pairs": pairs, "alone": seconds}


def product(pairs: int) -> dict[str, Any]:
    """Measure the fastest FP32 matrix product on this machine, and count the operations per pair."""
    rates = {"torch.mm": _gflops(_torch_product())}
    if (run := _onnx_product()) is not None:
        rates["ONNX Runtime MatMul"] = _gflops(run)
    return {"gflops": rates, "gflop_a_pair": _GFLOP_A_PICTURE + _gflop_a_caption(pairs)}


def jobs(options: Options) -> list[Job]:
    here, found = __name__, []
    for model, pairs in ((VIT, options.pairs), (MINI, options.mini_pairs)):
        found.append(Job(f"{model} run", "benchmarks.scoring:score", {"model": model, "pairs": pairs}))
        found.append(Job(f"{model} alone", f"{here}:alone", {"model": model, "pairs": pairs}))
    return [*found, Job("product", f"{here}:product", {"pairs": options.pairs})]


def table(rounds: Rounds) -> str:
    parts = []
    for model, name in _NAMES.items():
        run, by_itself = rounds.get(f"{model} run"), rounds.get(f"{model} alone")
        if run and by_itself:
            parts.append(_stage_table(name, run, by_itself))
    if product := rounds.get("product"):
        parts.append(_product_table(product, rounds.get(f"{VIT} run", []), rounds.get(f"{VIT} alone", [])))
    return "\n\n".join(parts)


def _stage_table(name: str, run: list[dict[str, Any]], by_itself: list[dict[str, Any]]) -> str:
    pairs, lines, walls = run[-1]["pairs"], [], 0.0
    for stage in STAGES:
        wall = mid(by_itself, at("alone", stage))
        walls += wall
        in_run = mid(run, at("stages", stage))
        lines.append([stage, f"{in_run:.2f}", f"{wall:.2f}", f"{pairs / wall:,.0f}"])
    wall_clock = mid(run, at("seconds"))
    total = [f"{wall_clock:.2f}", f"{walls:.2f}", f"{pairs / walls:,.0f}"]
    lines.append(["the run; the sum of the stages' limits", *total])
    header = [f"{name}, {pairs} pairs", "s in the run, summed over threads", "s alone on all cores", "pairs/s alone"]
    return markdown(header, lines) + f"\n\nThe run reaches {100 * walls / wall_clock:.0f} % of its limit."


def _product_table(product: list[dict[str, Any]], run: list[dict[str, Any]], by_itself: list[dict[str, Any]]) -> str:
    best = max(one["gflops"][name] for one in product for name in one["gflops"])
    ceiling = best / product[-1]["gflop_a_pair"]
    lines = [
        [f"{name} of {'x'.join(map(str, _PRODUCT))}, GFLOP/s", f"{max(one['gflops'][name] for one in product):.0f}"]
        for name in product[-1]["gflops"]
    ]
    lines.append(["GFLOP per pair", f"{product[-1]['gflop_a_pair']:.2f}"])
    lines.append(["pairs/s if all operations ran at the highest of these rates", f"{ceiling:.1f}"])
    if by_itself:
        encoders = mid(by_itself, lambda one: one["pairs"] / sum(one["alone"][s] for s in _ENCODERS))
        lines.append(["share of these pairs/s that the encoders alone reach", f"{100 * encoders / ceiling:.0f} %"])
    if run:
        lines.append(["share of these pairs/s that the run reaches", f"{100 * mid(run, rate) / ceiling:.0f} %"])
    return markdown(["ViT-B/32, FP32", ""], lines)


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = action()
    return found, time.perf_counter() - began


def _on_threads(work: Callable[[Any], Any], items: list[Any], threads: int) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))


def _gflops(run: Callable[[], object]) -> float:
    """Return the rate of the fastest of 40 products, after 10 to warm up."""
    times = [_timed(run)[1] for _ in range(50)][10:]
    rows, inner, columns = _PRODUCT
    return 2 * rows * inner * columns / min(times) / 1e9


def _torch_product() -> Callable[[], object]:
    import torch

    rows, inner, columns = _PRODUCT
    left, right = torch.rand(rows, inner), torch.rand(inner, columns)
    return lambda: torch.mm(left, right)


def _onnx_product() -> Callable[[], object] | None:
    """Return a MatMul with constant weights in ONNX Runtime, or None if that or `onnx` is not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return None
    rows, inner, columns = _PRODUCT
    weights = onnx.numpy_helper.from_array(np.random.default_rng(0).random((inner, columns), np.float32), "weights")
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["left", "weights"], ["out"])],
        "product",
        [tensor("left", onnx.TensorProto.FLOAT, (rows, inner))],
        [tensor("out", onnx.TensorProto.FLOAT, (rows, columns))],
        [weights],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    left = np.random.default_rng(1).random((rows, inner), np.float32)
    return lambda: session.run(None, {"left": left})


def _gflop_a_caption(pairs: int) -> float:
    """Return the operations in the text tower for an average caption of the inputs, without padding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    counts = [len(ids) for ids in tokenizer([row.caption for row in read_rows("pairs.csv", pairs)])["input_ids"]]
    # In each layer, a token is multiplied by 12 d^2 weights, and twice by d values of every token of its caption.
    flops = [count * _LAYERS * (24 * _WIDTH**2 + 4 * count * _WIDTH) for count in counts]
    return sum(flops) / len(flops) / 1e9


SECTION = Section("stages", jobs, table)
