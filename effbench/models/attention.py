"""Multi-head self-attention: over all tokens, or over a window in blocks of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench.config.options import WHOLE
from effbench.errors import OptionError
from effbench.models.layers import check_count, check_dropout

BLOCK = 128  # tokens; queries of a block share their keys. 128 takes less time and memory on a CPU than 64
CHUNK = 16  # blocks of a call: keys and values are copied for each block that sees them, for one chunk at a time


class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens (arXiv:1706.03762, section 3.2).

    (B, T, D) -> (B, T, D). With the same weights it gives the numbers of torch.nn.MultiheadAttention.

    Args:
        dim: D, a multiple of heads.
        heads: attention heads.
        dropout: fraction of attention weights dropped, in [0, 1).
        causal: a token sees itself and earlier tokens only.
        rotary: rotate queries and keys by their place (arXiv:2104.09864), instead of a table of places.

    Raises:
        OptionError: heads do not divide dim, or rotary and the width of a head is odd.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, causal: bool = False, rotary: bool = False):
        super().__init__()
        check_count(dim, "model.dim", "channels")
        check_count(heads, "model.heads", "heads")
        check_dropout(dropout, "model.attention_dropout")
        if dim % heads:
            raise OptionError(f"model.heads must divide model.dim; got {heads} heads for a width of {dim}.")
        if rotary and (dim // heads) % 2:
            raise OptionError(
                f"model.positions=rotary needs an even model.dim / model.heads; got {dim} / {heads} = {dim // heads}."
            )
        self.heads, self.dropout, self.causal, self.rotary = heads, dropout, causal, rotary
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x_BTD: states.
            mask_BT: bool, False for tokens that no token sees (padding); None: all are seen.
        """
        q, k, v = self._projected(x_BTD)
        mixed_BTD = self.mixed(q, k, v, mask_BT).transpose(1, 2).flatten(2)
        out_BTD: Tensor = self.out(mixed_BTD)
        return out_BTD

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, mask_BT: Tensor | None) -> Tensor:
        """Return the attended values.

        Args:
            q, k, v: queries, keys and values, (B, H, T, D / H).
            mask_BT: as in `forward`.

        Returns:
            (B, H, T, D / H).
        """
        seen = None if mask_BT is None else mask_BT[:, None, None, :]
        causal = self.causal
        if causal and seen is not None:
            T = q.shape[2]
            seen, causal = seen & torch.ones(T, T, dtype=torch.bool, device=q.device).tril(), False
        return F.scaled_dot_product_attention(q, k, v, seen, self._dropped, is_causal=causal)

    def weights(self, x_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Return what each token takes from each, float (B, H, T, T); rows add up to 1.

        To be looked at: `forward` makes no such tensor.

        Args:
            x_BTD: states.
            mask_BT: as in `forward`.
        """
        q, k, _ = self._projected(x_BTD)
        if mask_BT is None:
            mask_BT = torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
        seen_BTT = mask_BT[:, None, :] & self._visible(x_BTD.shape[1], x_BTD.device)
        scores_BHTT = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        weights_BHTT: Tensor = scores_BHTT.masked_fill(~seen_BTT[:, None], -torch.inf).softmax(3)
        return weights_BHTT

    def _visible(self, T: int, device: torch.device) -> Tensor:
        """Return bool (T, T): which tokens each token may see by its place."""
        every = torch.ones(T, T, dtype=torch.bool, device=device)
        return every.tril() if self.causal else every

    def _projected(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (B, H, T, D / H) each."""
        q, k, v = (part.transpose(1, 2) for part in self.qkv(x_BTD).unflatten(2, (3, self.heads, -1)).unbind(2))
        return (rotated(q), rotated(k), v) if self.rotary else (q, k, v)

    @property
    def _dropped(self) -> float:
        return self.dropout if self.training else 0.0


class LocalAttention(SelfAttention):
    """Multi-head self-attention in which a token sees only tokens at most `window` places away.

    Time and memory are O(T x window): queries go in blocks of BLOCK tokens, each with the keys that one of its queries
    may see, CHUNK blocks at a time, and no (T, T) tensor is made. The first `num_global` tokens see all tokens and are
    seen by all, as in Longformer (arXiv:2004.05150, section 3.1). Masked scores are minus infinity, so that nothing
    outside the window has any weight.

    Args:
        dim, heads, dropout, causal, rotary: as in SelfAttention.
        window: places to each side.
        num_global: tokens at the start that see everything.

    Raises:
        OptionError: an option is out of range, or global tokens are causal.
    """

    def __init__(
        self, dim: int, heads: int, window: int, num_global: int = 0, dropout: float = 0.0, causal: bool = False,
        rotary: bool = False,
    ):  # fmt: skip
        super().__init__(dim, heads, dropout, causal, rotary)
        check_count(window, "model.window", "tokens")
        WHOLE.check(num_global, "model.num_global", "a whole number of tokens, at least 0")
        if num_global and causal:
            raise OptionError("model.num_global needs model.causal=false: a global token would see later ones.")
        self.window, self.num_global = window, num_global

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, mask_BT: Tensor | None) -> Tensor:
        """Return the attended values; only tokens in the window and global tokens are read.

        Args:
            q, k, v: queries, keys and values, (B, H, T, D / H).
            mask_BT: as in `forward`.

        Returns:
            (B, H, T, D / H).
        """
        B, T = q.shape[0], q.shape[2]
        globals_ = min(self.num_global, T)
        block = min(BLOCK, self.window)
        reach = -(-self.window // block)  # blocks to each side, rounded up
        after = 0 if self.causal else reach
        rows = max(CHUNK, reach) * block
        seen_BT = torch.ones(B, T, dtype=torch.bool, device=q.device) if mask_BT is None else mask_BT
        # Global keys are in each block's list, so they leave the window's list.
        local_BT = seen_BT & (torch.arange(T, device=q.device) >= globals_) if globals_ else seen_BT
        band = self._band(block, reach, after, q.device)

        padded = (F.pad(each, (0, 0, 0, -T % block)) for each in (q, k, v, local_BT[:, None, :, None]))
        queries, keys, values, seen = (_pieces(each, rows) for each in padded)
        mixed = []
        for n, piece in enumerate(queries):
            near = band
            # the first and the last chunk have keys outside of the text
            if mask_BT is not None or globals_ or n == 0 or (n + 1) * rows + after * block > T:
                near = band & self._windows(seen, n, reach, after, block).transpose(3, 4)  # (B, blocks, 1, block, keys)
            pairs = [self._windows(each, n, reach, after, block) for each in (keys, values)]
            if globals_:
                blocks = pairs[0].shape[1]
                pairs = [
                    torch.cat([each[:, None, :, :globals_].expand(-1, blocks, -1, -1, -1), windows], 3)
                    for each, windows in zip((k, v), pairs, strict=True)
                ]
                first = seen_BT[:, None, None, None, :globals_].expand(B, blocks, 1, block, globals_)
                near = torch.cat([first, near], 4)
            mixed.append(self._in_blocks(piece, pairs[0], pairs[1], near))
        mixed_BHTd = torch.cat(mixed, 2)[:, :, :T]
        if globals_:
            seen_all = seen_BT[:, None, None, :]
            first = F.scaled_dot_product_attention(q[:, :, :globals_], k, v, seen_all, self._dropped)
            mixed_BHTd = torch.cat([first, mixed_BHTd[:, :, globals_:]], 2)
        return mixed_BHTd

    def _in_blocks(self, q: Tensor, keys: Tensor, values: Tensor, near: Tensor) -> Tensor:
        """Return the attended values of a chunk. Blocks become part of the batch: each is a small dense attention.

        Args:
            q: (B, H, rows, d).
            keys, values: of each block, (B, blocks, H, keys, d).
            near: which keys a query sees, bool (block, keys) or (B, blocks, 1, block, keys).

        Returns:
            (B, H, rows, d).
        """
        B, blocks = keys.shape[:2]
        q_blocks = q.unflatten(2, (blocks, -1)).transpose(1, 2).flatten(0, 1)
        seen = near if near.dim() == 2 else near.flatten(0, 1)
        mixed = F.scaled_dot_product_attention(q_blocks, keys.flatten(0, 1), values.flatten(0, 1), seen, self._dropped)
        mixed_BHTd: Tensor = mixed.unflatten(0, (B, blocks)).transpose(1, 2).flatten(2, 3)
        return mixed_BHTd

    def _visible(self, T: int, device: torch.device) -> Tensor:
        places = torch.arange(T, device=device)
        visible = (places[:, None] - places).abs() <= self.window
        visible[: self.num_global] = True
        visible[:, : self.num_global] = True
        return visible & super()._visible(T, device)

    @staticmethod
    def _windows(pieces: Sequence[Tensor], n: int, before: int, after: int, block: int) -> Tensor:
        """Return for each block of piece n the rows of itself and its neighbours.

        Args:
            pieces: (B, H, rows, d) each, whole blocks.
            n: number of a piece.
            before, after: neighbouring blocks on each side.
            block: rows of a block.

        Returns:
            (B, blocks, H, (before + 1 + after) * block, d), zero outside of the text.
        """
        piece, rows = pieces[n], pieces[n].shape[2]
        parts = [pieces[n - 1][:, :, -before * block :]] if n else []
        parts.append(piece)
        parts += [pieces[n + 1][:, :, : after * block]] if n + 1 < len(pieces) else []
        left = 0 if n else before * block
        right = after * block - (min(pieces[n + 1].shape[2], after * block) if n + 1 < len(pieces) else 0)
        wide = F.pad(torch.cat(parts, 2) if len(parts) > 1 else piece, (0, 0, left, right))
        # shifted slices, not unfold: its gradient is slow on a CPU
        shifted = [
            wide[:, :, shift * block : shift * block + rows].unflatten(2, (-1, block)).transpose(1, 2)
            for shift in range(before + 1 + after)
        ]
        return torch.cat(shifted, 3)

    def _band(self, block: int, before: int, after: int, device: torch.device) -> Tensor:
        """Return bool (block, keys): which keys of a block's list are within the window of its queries."""
        query = torch.arange(block, device=device)[:, None]
        key = torch.arange((before + 1 + after) * block, device=device)[None, :] - before * block
        near = (key - query).abs() <= self.window
        return near & (key <= query) if self.causal else near


def _pieces(x_BHTd: Tensor, rows: int) -> Sequence[Tensor]:
    """Return the tensor in pieces of `rows` places, the last of which may be shorter."""
    # one piece without a split, which an exported file of any length could not hold
    return [x_BHTd] if x_BHTd.shape[2] <= rows else x_BHTd.split(rows, 2)


def rotated(x_BHTd: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotate pairs of channels by angles that grow with the place (arXiv:2104.09864, equation 34).

    Scores of rotated queries and keys depend on their distance only. Channels n and n + d / 2 are a pair.
    """
    T, d = x_BHTd.shape[2:]
    rates = base ** (-torch.arange(0, d, 2, device=x_BHTd.device, dtype=torch.float32) / d)
    angles = torch.arange(T, device=x_BHTd.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos().to(x_BHTd.dtype), angles.sin().to(x_BHTd.dtype)
    first, second = x_BHTd.chunk(2, 3)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], 3)
