"""The last layer for one token gives what the whole layer gives there, for less work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from text_image_similarity.encoders.last_layer import OneToken, OneTokenBlock, at_ends, token_of, token_of_block

WIDTH, LENGTH = 64, 12


def clip_layer() -> Any:
    shape = CLIPTextConfig(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=4)
    shape._attn_implementation = "sdpa"
    return CLIPEncoderLayer(shape).eval().requires_grad_(False)


def open_clip_block() -> Any:
    return ResidualAttentionBlock(WIDTH, 4).eval().requires_grad_(False)


def random_tokens() -> Tensor:
    return torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))


def work_of(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        found = run()
    return found, counted.get_total_flops()


@pytest.mark.parametrize("place", [0, -1])
def test_the_first_or_last_token_alone(place: int) -> None:
    layer, hidden = clip_layer(), random_tokens()
    whole, all_work = work_of(lambda: layer(hidden, None))
    found, work = work_of(lambda: OneToken(layer, place)(hidden))
    torch.testing.assert_close(found[:, 0], whole[:, place], atol=1e-6, rtol=0)
    assert found.shape == (3, 1, WIDTH)
    assert work < all_work / 2


def test_open_clips_class_token_alone() -> None:
    block, hidden = open_clip_block(), random_tokens()
    whole, all_work = work_of(lambda: block(hidden))
    found, work = work_of(lambda: OneTokenBlock(block)(hidden))
    torch.testing.assert_close(found[:, 0], whole[:, 0], atol=1e-6, rtol=0)
    assert work < all_work / 2


@pytest.mark.parametrize(("make", "alone"), [(clip_layer, token_of), (open_clip_block, token_of_block)])
def test_the_end_token_alone_sees_what_is_before_it(make: Callable[[], Any], alone: Callable[..., Tensor]) -> None:
    layer, hidden, ends = make(), random_tokens(), torch.tensor([0, 5, LENGTH - 1])
    causal = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
    whole = layer(hidden, causal[None, None]) if alone is token_of else layer(hidden, attn_mask=causal)
    hidden[1, 6:] = 9  # what comes after the end does not matter
    found = alone(layer, hidden, *at_ends(hidden, ends))
    torch.testing.assert_close(found[:, 0], whole[torch.arange(3), ends], atol=1e-6, rtol=0)
