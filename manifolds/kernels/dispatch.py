"""Which implementation of an operation runs: the plain torch reference, Numba's on the CPU, or CuPy's on CUDA."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["backend", "is_observed", "is_small", "status", "use"]

#: The package that the kernels of each type of device need.
BACKENDS = {"cpu": "numba", "cuda": "cupy"}
_INSTALLED = {device: importlib.util.find_spec(package) is not None for device, package in BACKENDS.items()}
_DTYPES = (torch.float32, torch.float64)

_forced: str | None = None


@contextmanager
def use(implementation: str | None) -> Iterator[None]:
    """Choose the implementation of every operation within a ``with`` block, in the whole process.

    Parameters
    ----------
    implementation : {"reference", "fused"} or None
        ``"reference"``: plain torch operations everywhere. ``"fused"``: the kernels, wherever one takes the arguments.
        None: the default, which is to choose by device, dtype, size and layout.

    Raises
    ------
    ValueError
        For another name.
    RuntimeError
        For ``"fused"`` where no kernels can run; `status` says why.
    """
    global _forced
    if implementation not in ("reference", "fused", None):
        raise ValueError(f"kernels.use: 'implementation' must be 'reference', 'fused' or None, got {implementation!r}")
    reasons = [_why_not(device) for device in BACKENDS]
    if implementation == "fused" and None not in reasons:
        raise RuntimeError(f"kernels.use: no fused kernels can run: {'; '.join(map(str, reasons))}")
    before, _forced = _forced, implementation
    try:
        yield
    finally:
        _forced = before


def _why_not(device: str) -> str | None:
    """Reason why the kernels of a type of device cannot run, or None."""
    if not _INSTALLED[device]:
        return f"{BACKENDS[device]} is not installed"
    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None


def status() -> dict[str, dict[str, str]]:
    """Say for each type of device which implementation is live, and why.

    Returns
    -------
    dict
        ``{"cpu": {"live": "numba" | "reference", "why": ...}, "cuda": {...}}``.
    """
    found = {}
    for device, name in BACKENDS.items():
        reason = _why_not(device)
        if _forced == "reference":
            found[device] = {"live": "reference", "why": "kernels.use('reference') is in force"}
        elif reason is not None:
            found[device] = {"live": "reference", "why": reason}
        else:
            found[device] = {"live": name, "why": "float32 and float64"}
    return found


def backend(*tensors: Tensor) -> str | None:
    """Name of the fused implementation that takes these tensors ("numba" or "cupy"), or None for the reference.

    The reference takes everything that a kernel does not: other devices and dtypes, mixed ones, tensors that wrap
    others (DTensor), forward-mode differentiation, the gradients of ``torch.func`` (which torch's custom operators do
    not support), and ``torch.export``, whose programs are to run without this library.
    """
    if _forced == "reference":
        return None
    first = tensors[0]
    device = first.device.type
    if first.dtype not in _DTYPES or not _INSTALLED.get(device, False):
        return None
    for tensor in tensors:
        if tensor.dtype != first.dtype or tensor.device != first.device or hasattr(tensor, "__tensor_flatten__"):
            return None
    if torch.compiler.is_compiling():
        plain = torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active()
        return None if plain else BACKENDS[device]
    return None if forward_ad._current_level >= 0 or _in_gradient() else BACKENDS[device]


def is_small(tensor: Tensor, least: int) -> bool:
    """Whether the reference is to take a CPU tensor with fewer numbers than `least`."""
    return tensor.numel() < least and tensor.device.type == "cpu" and _forced is None


def is_observed(*tensors: Tensor) -> bool:
    """Whether something looks at operators: compiler, tracer, ``torch.func``, dispatch mode, or a tensor's type."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
        # the batches of torch.autograd.grad(is_grads_batched=True), which are not torch.func's
        or any(not _is_plain(type(t)) or torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)
    )


@cache
def _is_plain(kind: type[Tensor]) -> bool:
    """Whether operators on tensors of a type are torch's own."""
    return kind.__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl


def _in_gradient() -> bool:
    """Whether ``torch.func.grad`` or one of its kind is at work, and not only ``torch.vmap``."""
    if not torch._C._are_functorch_transforms_active():
        return False
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() != torch._C._functorch.TransformType.Vmap for level in stack)
