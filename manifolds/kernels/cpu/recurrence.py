"""CPU kernels of linear recurrences: one pass over time forward, one backward, eight numbers at once.

`run` and `run_backward` vectorise over channels; `scan` and `scan_backward` (the selective scan) over the states of a
channel, which live in cache and are never written out whole.
"""

import numpy as np

from holonomy.manifolds.kernels.cpu.jit import inline, kernel, parallel
from holonomy.manifolds.kernels.cpu.lanes import exp, fill, load, masked_load, masked_store, store, total

__all__ = ["CHECKPOINT", "parts", "run", "run_backward", "scan", "scan_backward"]

#: Channels that walk through time together.
_WIDTH = 256
#: `parallel` cuts at multiples of this many rows; units of work are counted in as many parts.
_UNIT = 64
#: Steps between the states that the selective scan keeps for its backward pass.
CHECKPOINT = 64


# -- h[t] = a[t] h[t-1] + b[t] -------------------------------------------------------------------------------------


@inline
def _step(a, b, before, previous, h, now, width):  # type: ignore[no-untyped-def]
    """h[now] = a[now] before[previous] + b[now] for `width` channels."""
    full = width - width % 8
    for j in range(0, full, 8):
        store(h, now + j, load(a, now + j) * load(before, previous + j) + load(b, now + j))
    if full < width:
        j, rest = full, width - full
        value = masked_load(a, now + j, rest) * masked_load(before, previous + j, rest) + masked_load(b, now + j, rest)
        masked_store(h, now + j, value, rest)


@kernel
def _run(a, b, h0, h, time, channels, reverse, low, high):  # type: ignore[no-untyped-def]
    blocks = (channels + _WIDTH - 1) // _WIDTH
    move = -channels if reverse else channels
    for unit in range(low // _UNIT, high // _UNIT):
        row, start = unit // blocks, unit % blocks * _WIDTH
        width = min(_WIDTH, channels - start)
        now = (row * time + (time - 1 if reverse else 0)) * channels + start
        _step(a, b, h0, row * channels + start, h, now, width)
        for _ in range(1, time):
            now += move
            _step(a, b, h, now - move, h, now, width)


@kernel
def _run_narrow(a, b, h0, h, time, channels, reverse, low, high):  # type: ignore[no-untyped-def]
    """The same for fewer than 8 channels: eight rows walk together, so that their chains of additions overlap."""
    state = np.empty(8 * channels, h.dtype)
    for first in range(low, high, 8):
        rows = min(8, high - first)
        for i in range(rows * channels):
            state[i] = h0[first * channels + i]
        for step in range(time):
            t = time - 1 - step if reverse else step
            for r in range(rows):
                for c in range(channels):
                    o = ((first + r) * time + t) * channels + c
                    state[r * channels + c] = a[o] * state[r * channels + c] + b[o]
                    h[o] = state[r * channels + c]


@inline
def _step_backward(g, a, h, before, previous, ga, gb, now, after, width):  # type: ignore[no-untyped-def]
    """gb[now] = g[now] + a[after] gb[after]; ga[now] = gb[now] before[previous]. `after` < 0: there is no such step."""
    full = width - width % 8
    for j in range(0, full, 8):
        value = load(g, now + j)
        if after >= 0:
            value = value + load(a, after + j) * load(gb, after + j)
        store(gb, now + j, value)
        store(ga, now + j, value * load(before, previous + j))
    if full < width:
        j, rest = full, width - full
        value = masked_load(g, now + j, rest)
        if after >= 0:
            value = value + masked_load(a, after + j, rest) * masked_load(gb, after + j, rest)
        masked_store(gb, now + j, value, rest)
        masked_store(ga, now + j, value * masked_load(before, previous + j, rest), rest)


@kernel
def _run_backward(g, a, h, h0, ga, gb, gh0, time, channels, reverse, low, high):  # type: ignore[no-untyped-def]
    blocks = (channels + _WIDTH - 1) // _WIDTH
    move = -channels if reverse else channels
    for unit in range(low // _UNIT, high // _UNIT):
        row, start = unit // blocks, unit % blocks * _WIDTH
        width = min(_WIDTH, channels - start)
        now = (row * time + (0 if reverse else time - 1)) * channels + start
        after = -1
        for _ in range(1, time):
            _step_backward(g, a, h, h, now - move, ga, gb, now, after, width)
            after = now
            now -= move
        origin = row * channels + start
        _step_backward(g, a, h, h0, origin, ga, gb, now, after, width)
        for j in range(width):
            gh0[origin + j] = a[now + j] * gb[now + j]


@kernel
def _run_backward_narrow(g, a, h, h0, ga, gb, gh0, time, channels, reverse, low, high):  # type: ignore[no-untyped-def]
    carried = np.empty(8 * channels, h.dtype)
    move = -channels if reverse else channels
    for first in range(low, high, 8):
        rows = min(8, high - first)
        carried[:] = 0.0
        for step in range(time):
            t = step if reverse else time - 1 - step
            for r in range(rows):
                for c in range(channels):
                    o = ((first + r) * time + t) * channels + c
                    value = g[o] + carried[r * channels + c]
                    before = h0[(first + r) * channels + c] if step == time - 1 else h[o - move]
                    gb[o] = value
                    ga[o] = value * before
                    carried[r * channels + c] = a[o] * value
        for i in range(rows * channels):
            gh0[first * channels + i] = carried[i]


def run(a: np.ndarray, b: np.ndarray, h0: np.ndarray, h: np.ndarray, shape: tuple[int, ...], reverse: bool) -> None:
    """Write the recurrence to h; flat arrays of shape (rows, time, channels), h0 of (rows, channels)."""
    rows, time, channels = shape
    if channels < 8:
        parallel(_run_narrow, rows, max(1, 2**15 // (time * channels)), a, b, h0, h, time, channels, reverse)
        return
    blocks = -(-channels // _WIDTH)
    grain = max(1, 2**16 // (time * min(channels, _WIDTH)))
    parallel(_run, rows * blocks * _UNIT, grain * _UNIT, a, b, h0, h, time, channels, reverse)


def run_backward(
    g: np.ndarray,
    a: np.ndarray,
    h: np.ndarray,
    h0: np.ndarray,
    grads: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, ...],
    reverse: bool,
) -> None:
    """Write the gradients in a, b and h0 to `grads`, from the gradient g in h."""
    rows, time, channels = shape
    if channels < 8:
        grain = max(1, 2**15 // (time * channels))
        parallel(_run_backward_narrow, rows, grain, g, a, h, h0, *grads, time, channels, reverse)
        return
    blocks = -(-channels // _WIDTH)
    grain = max(1, 2**16 // (time * min(channels, _WIDTH)))
    parallel(_run_backward, rows * blocks * _UNIT, grain * _UNIT, g, a, h, h0, *grads, time, channels, reverse)


# -- selective scan ------------------------------------------------------------------------------------------------
#
# Arrays are flat: u, delta, y (batch, channels, time); A (channels, states); B, C (batch, groups, time, states); h0
# (batch, channels, states). The number of states is padded to a multiple of eight with zeros in A, B and C.


@kernel
def _scan(u, delta, A, B, C, D, h0, y, last, kept, sizes, low, high):  # type: ignore[no-untyped-def]
    channels, time, states, groups = sizes
    blocks = (time + CHECKPOINT - 1) // CHECKPOINT
    h = np.empty(states, y.dtype)
    for unit in range(low // _UNIT, high // _UNIT):
        batch, d = unit // channels, unit % channels
        row = unit * time
        shared = (batch * groups + d * groups // channels) * time * states
        for k in range(states):
            h[k] = h0[unit * states + k]
        for t in range(time):
            if t % CHECKPOINT == 0:
                for k in range(states):
                    kept[(unit * blocks + t // CHECKPOINT) * states + k] = h[k]
            step = fill(y, delta[row + t])
            drive = fill(y, delta[row + t] * u[row + t])
            out = fill(y, 0.0)
            o = shared + t * states
            for k in range(0, states, 8):
                value = exp(load(A, d * states + k) * step) * load(h, k) + drive * load(B, o + k)
                store(h, k, value)
                out = out + value * load(C, o + k)
            y[row + t] = total(out) + D[d] * u[row + t]
        for k in range(states):
            last[unit * states + k] = h[k]


@inline
def _replay(delta, u, A, B, kept, decay, h, row, shared, checkpoint, a, states, first, count):  # type: ignore[no-untyped-def]
    """Recompute the decays and states of `count` steps from `first` on; h[i] is the state before step i."""
    for k in range(states):
        h[k] = kept[checkpoint + k]
    for i in range(count):
        t = first + i
        step, drive = fill(h, delta[row + t]), fill(h, delta[row + t] * u[row + t])
        o = shared + t * states
        for k in range(0, states, 8):
            e = exp(load(A, a + k) * step)
            store(decay, i * states + k, e)
            store(h, (i + 1) * states + k, e * load(h, i * states + k) + drive * load(B, o + k))


@inline
def _add_into(array, offset, value):  # type: ignore[no-untyped-def]
    store(array, offset, load(array, offset) + value)


@kernel
def _scan_backward(  # type: ignore[no-untyped-def]
    gy, u, delta, A, B, C, D, kept, gu, gdelta, gA, gB, gC, gD, glast, sizes, pieces, low, high
):
    """`glast` holds the gradient in the last state on entry, and that in the first on return."""
    channels, time, states, groups = sizes
    blocks = (time + CHECKPOINT - 1) // CHECKPOINT
    h = np.empty((CHECKPOINT + 1) * states, gy.dtype)
    decay = np.empty(CHECKPOINT * states, gy.dtype)
    ga = np.empty(states, gy.dtype)
    members = channels // groups
    for unit in range(low // _UNIT, high // _UNIT):
        pair, piece = unit // pieces, unit % pieces
        batch, group = pair // groups, pair % groups
        shared, mine = pair * time * states, unit * time * states
        gB[mine : mine + time * states] = 0.0
        gC[mine : mine + time * states] = 0.0
        for d in range(group * members + members * piece // pieces, group * members + members * (piece + 1) // pieces):
            one = batch * channels + d
            row, lam, a = one * time, one * states, d * states
            gA[lam : lam + states] = 0.0
            gd = 0.0
            for block in range(blocks - 1, -1, -1):
                first = block * CHECKPOINT
                count = min(CHECKPOINT, time - first)
                at = (one * blocks + block) * states
                _replay(delta, u, A, B, kept, decay, h, row, shared, at, a, states, first, count)
                ga[:] = 0.0
                for i in range(count - 1, -1, -1):
                    t = first + i
                    grad, step = fill(gy, gy[row + t]), fill(gy, delta[row + t])
                    drive = fill(gy, delta[row + t] * u[row + t])
                    along_b, along_a = fill(gy, 0.0), fill(gy, 0.0)
                    for k in range(0, states, 8):
                        o = t * states + k
                        value = load(glast, lam + k) + grad * load(C, shared + o)
                        _add_into(gC, mine + o, grad * load(h, (i + 1) * states + k))
                        _add_into(gB, mine + o, value * drive)
                        decayed = value * load(decay, i * states + k)
                        product = decayed * load(h, i * states + k)
                        along_b = along_b + value * load(B, shared + o)
                        along_a = along_a + product * load(A, a + k)
                        _add_into(ga, k, product * step)
                        store(glast, lam + k, decayed)
                    inner = total(along_b)
                    gu[row + t] = delta[row + t] * inner + D[d] * gy[row + t]
                    gdelta[row + t] = u[row + t] * inner + total(along_a)
                    gd += gy[row + t] * u[row + t]
                for k in range(0, states, 8):
                    _add_into(gA, lam + k, load(ga, k))
            gD[one] = gd


def scan(arrays: tuple[np.ndarray, ...], outputs: tuple[np.ndarray, ...], batch: int, sizes: tuple[int, ...]) -> None:
    """Run the scan; arrays u, delta, A, B, C, D, h0; outputs y, the last state, the states kept for `scan_backward`."""
    channels, time, states, _ = sizes
    grain = max(1, 2**14 // (time * states))
    parallel(_scan, batch * channels * _UNIT, grain * _UNIT, *arrays, *outputs, sizes)


def parts(batch: int, channels: int, groups: int) -> int:
    """Pieces into which a group's channels are cut for `scan_backward`: by shape alone, so that sums do not depend on
    the number of threads."""
    return min(max(1, 8 // (batch * groups)), channels // groups)


def scan_backward(
    arrays: tuple[np.ndarray, ...], grads: tuple[np.ndarray, ...], batch: int, sizes: tuple[int, ...]
) -> None:
    """Pull back; arrays gy, u, delta, A, B, C, D, kept; grads gu, gdelta, gA and gD per batch entry, gB and gC per
    piece, and the gradient in the last state, which becomes that in the first."""
    channels, _, _, groups = sizes
    pieces = parts(batch, channels, groups)
    parallel(_scan_backward, batch * groups * pieces * _UNIT, _UNIT, *arrays, *grads, sizes, pieces)
