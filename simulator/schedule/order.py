"""Which device runs which pass on which micro-batch, and in what order.

A *pass* is a forward, a backward or the weight-gradient half of a backward of one micro-batch
through one *virtual stage* (a contiguous slice of the model on one device).

References
----------
.. [1] Huang et al. 2019, GPipe, arXiv:1811.06965.
.. [2] Narayanan et al. 2021a, PipeDream-2BW and PipeDream-flush (1F1B), arXiv:2006.09503.
.. [3] Narayanan et al. 2021b, Megatron-LM, interleaved 1F1B, arXiv:2104.04473, section 2.2.
.. [4] Qi et al. 2023, Zero Bubble Pipeline Parallelism, ZB-H1, arXiv:2401.10241, section 2.
.. [5] DeepSeek-AI 2024, DeepSeek-V3 Technical Report, arXiv:2412.19437, section 3.2.1, and its
   published schedule, github.com/deepseek-ai/DualPipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError, nearest
from ridgeline.simulator.plan import SCHEDULE_SUFFIX
from ridgeline.simulator.schedule import _kernels
from ridgeline.simulator.schedule.described import Description, read_description, v_schedule
from ridgeline.simulator.schedule.skipping import skip_schedule
from ridgeline.simulator.stage_skips import skip_problems, skipped_stages

Bool = NDArray[np.bool_]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

KINDS = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-v", "dualpipe")

FORWARD, BACKWARD, WEIGHT = range(3)
"""``pass_kind``; BACKWARD is the input-gradient half where the schedule splits the backward."""

MIDDLE, FIRST, LAST, ONLY = range(4)
"""``variant``: first or last micro-batch of the vstage on this kind of pass; ONLY is both."""
PAIRED = 4
"""Flag of ``variant``: co-scheduled with its neighbour, a forward with a backward."""
WHOLE = 8
"""Flag of ``variant``: in a splitting schedule, a BACKWARD that does both halves at once."""
VARIANTS = 16

MAX_PASSES = 1 << 26
"""Longest schedule that is built; beyond it the arrays alone would take gigabytes."""


_CACHED_PASSES = 1 << 16
"""Schedules up to this size are laid out once: plans that differ in their split share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The order of passes on every device.

    D devices, V virtual stages, P passes over all devices. Device d runs the passes
    ``device_ptr[d]`` to ``device_ptr[d + 1]`` of the flat arrays, in that order.
    """

    kind: str
    devices: int
    micro_batches: int
    device_ptr: Int64
    """int64[D + 1]."""
    pass_kind: Int8
    """int8[P]: FORWARD, BACKWARD or WEIGHT."""
    vstage: Int32
    """int32[P]."""
    micro_batch: Int32
    """int32[P], counted over both directions of DualPipe together."""
    variant: Int8
    """int8[P]: MIDDLE, FIRST, LAST or ONLY, plus the flags PAIRED and WHOLE.

    FIRST is the first pass of its kind on this vstage. LAST is the last forward, the last
    input-gradient half, or the last pass that yields weight gradients (a WEIGHT, or a backward
    that is not split), after which the gradients of the vstage are complete.
    """
    vstage_device: Int32
    """int32[V]."""
    vstage_prev: Int32
    """int32[V]: where the input of a forward comes from, -1 at the first."""
    vstage_next: Int32
    """int32[V]: where the input of a backward comes from, -1 at the last."""
    vstage_part: Int32
    """int32[V]: slice of the model, counted in model order; DualPipe holds each slice twice."""
    split_backward: bool
    """Input and weight gradients are passes of their own (except those flagged WHOLE)."""
    path_prev: Int32 = field(default_factory=lambda: np.empty((0, 0), np.int32))
    """int32[V, M]: ``vstage_prev`` by micro-batch where micro-batches go their own ways."""
    path_next: Int32 = field(default_factory=lambda: np.empty((0, 0), np.int32))
    """int32[V, M]: ``vstage_next``, alike."""

    @property
    def passes(self) -> int:
        """Passes over all devices."""
        return len(self.pass_kind)

    @property
    def vstages(self) -> int:
        """Virtual stages over all devices."""
        return len(self.vstage_device)

    def visits(self) -> Int64:
        """Return how many forwards each virtual stage runs, int64[V]."""
        forwards = self.vstage[self.pass_kind == FORWARD]
        return np.bincount(forwards, minlength=self.vstages).astype(np.int64)

    @property
    def parts(self) -> int:
        """Slices that the model is cut into."""
        return int(self.vstage_part.max()) + 1

    def distinct(self) -> Bool:
        """Return which (pass kind, vstage, variant) occur, bool[3, V, VARIANTS]."""
        found = np.zeros((3, self.vstages, VARIANTS), np.bool_)
        found[self.pass_kind, self.vstage, self.variant] = True
        return found


def _problems(kind: str, pp: int, vpp: int, micro_batches: int) -> list[str]:
    """Return one line for each rule that the numbers break."""
    skip = skipped_stages(kind)
    if kind not in KINDS and not skip:
        return [f"schedule = {kind!r}: unknown schedule; {nearest(kind, KINDS)}"]
    found = [
        f"{name} = {value}: must be at least 1"
        for name, value in (("pp", pp), ("vpp", vpp), ("micro-batches", micro_batches))
        if value < 1
    ]
    if found:
        return found
    if skip:
        found += skip_problems(pp, vpp, skip)
    elif kind == "zb-v":
        if vpp != 2:
            found.append(f"vpp = {vpp}: schedule 'zb-v' has two chunks a device; use vpp = 2")
    elif vpp > 1 and kind != "interleaved":
        found.append(f"vpp = {vpp}: only schedule 'interleaved' takes chunks; use vpp = 1")
    if kind == "interleaved" and vpp > 1 and micro_batches % pp:
        below = micro_batches // pp * pp
        legal = f"{below} or {below + pp}" if below else f"{pp}"
        found.append(
            f"micro-batches = {micro_batches}: the interleaved schedule needs a multiple of "
            f"pp = {pp}; nearest: {legal}"
        )
    if kind == "dualpipe" and pp > 1:
        if pp % 2:
            found.append(f"pp = {pp}: dualpipe needs an even pp; nearest: {pp - 1} or {pp + 1}")
        elif micro_batches < 2 * pp or micro_batches % 2:
            legal_count = max(2 * pp, micro_batches + micro_batches % 2)
            found.append(
                f"micro-batches = {micro_batches}: dualpipe needs an even number of at least "
                f"2 * pp = {2 * pp}; nearest: {legal_count}"
            )
    passes = 3 * pp * vpp * micro_batches
    if not found and passes > MAX_PASSES:
        most = MAX_PASSES // (3 * pp * vpp)
        found.append(
            f"micro-batches = {micro_batches}: {passes:,} passes over pp * vpp = {pp * vpp} "
            f"stages are too many to lay out; use at most {most} (a larger micro-batch or more dp)"
        )
    return found


def make_schedule(
    kind: str, pp: int, vpp: int, micro_batches: int, work: tuple[int, ...] = ()
) -> Schedule:
    """Lay out one training step.

    Parameters
    ----------
    kind
        ``gpipe`` [1]_, ``1f1b`` [2]_, ``interleaved`` [3]_, ``zb-h1`` or ``zb-v`` [4]_,
        ``dualpipe`` [5]_, ``skip-N`` (``skipping``), or the path of a description (``described``).
        ``interleaved`` with one chunk is 1F1B, and so is ``dualpipe`` on one device.
    pp
        Pipeline stages (devices).
    vpp
        Model chunks per device; more than 1 only with ``interleaved``, 2 with ``zb-v``.
    micro_batches
        Of one step; ``interleaved`` needs a multiple of pp, ``dualpipe`` an even number of at
        least 2 pp (half enters at either end) on an even pp.
    work
        What a pass through each virtual stage takes, for example its layers; only ``skip-N`` makes
        its order by it.

    Raises
    ------
    InputError
        For an unknown kind or a combination that the schedule does not allow.
    """
    if kind.endswith(SCHEDULE_SUFFIX):
        return _from_file(kind, pp, vpp, micro_batches)
    problems = _problems(kind, pp, vpp, micro_batches)
    if problems:
        raise InputError(problems)
    small = 3 * pp * vpp * micro_batches <= _CACHED_PASSES
    order_by = work if skipped_stages(kind) else ()
    return (_cached if small else _lay_out)(kind, pp, vpp, micro_batches, order_by)


def _from_file(path: str, pp: int, vpp: int, micro_batches: int) -> Schedule:
    """Lay out a described schedule where it is one for these numbers."""
    described = read_description(path)
    for name, has, wanted in (
        ("parallel.pp", len(described.orders), pp),
        ("pp*vpp", len(described.home), pp * vpp),
        ("micro-batches", described.micro_batches, micro_batches),
    ):
        if has != wanted:
            raise InputError(f"{name} = {wanted}: the schedule {described.name} is for {has}")
    return from_description(described)


def from_description(described: Description) -> Schedule:
    """Lay out a description, which must be one that ``described.problems`` finds nothing in."""
    passes = [one for order in described.orders for one in order]
    kinds, vstages, batches = np.array(passes, np.int64).reshape(-1, 3).T
    lengths = [0, *(len(order) for order in described.orders)]
    stages = len(described.home)
    vstage = np.ascontiguousarray(vstages, np.int32)
    pass_kind = np.ascontiguousarray(kinds, np.int8)
    variant = np.zeros(len(passes), np.int8)
    _kernels.mark_variants(stages, described.split, pass_kind, vstage, variant)
    index = np.arange(stages, dtype=np.int32)
    behind = index + 1
    behind[-1] = -1
    return Schedule(
        kind=described.name,
        devices=len(described.orders),
        micro_batches=described.micro_batches,
        device_ptr=np.cumsum(lengths, dtype=np.int64),
        pass_kind=pass_kind,
        vstage=vstage,
        micro_batch=np.ascontiguousarray(batches, np.int32),
        variant=variant,
        vstage_device=np.array(described.home, np.int32),
        vstage_prev=index - 1,
        vstage_next=behind,
        vstage_part=index,
        split_backward=described.split,
        **_path_links(described),
    )


def _path_links(described: Description) -> dict[str, Int32]:
    """Return where the inputs of passes come from, by virtual stage and micro-batch."""
    if not described.paths:
        return {}
    shape = (len(described.home), len(described.paths))
    before, behind = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    for batch, path in enumerate(described.paths):
        before[path[1:], batch] = path[:-1]
        behind[path[:-1], batch] = path[1:]
    return {"path_prev": before, "path_next": behind}


def _lay_out(kind: str, pp: int, vpp: int, micro_batches: int, work: tuple[int, ...]) -> Schedule:
    if kind == "zb-v":
        return from_description(v_schedule(pp, micro_batches))
    if skip := skipped_stages(kind):
        return from_description(skip_schedule(pp, micro_batches, skip, work))
    dual = kind == "dualpipe" and pp > 1
    split = kind == "zb-h1" or dual
    device = np.arange(pp, dtype=np.int64)
    counts = np.full(pp, (3 if kind == "zb-h1" else 2) * micro_batches * vpp, np.int64)
    if dual:
        counts += pp - 1 - np.minimum(device, pp - 1 - device)
    device_ptr = np.zeros(pp + 1, np.int64)
    np.cumsum(counts, out=device_ptr[1:])
    passes = int(device_ptr[-1])
    pass_kind = np.empty(passes, np.int8)
    vstage = np.empty(passes, np.int32)
    micro_batch = np.empty(passes, np.int32)
    variant = np.zeros(passes, np.int8)
    if dual:
        _kernels.order_dualpipe(pp, micro_batches, pass_kind, vstage, micro_batch, variant)
    elif kind == "gpipe":
        _kernels.order_gpipe(pp, micro_batches, pass_kind, vstage, micro_batch)
    elif vpp > 1:
        _kernels.order_interleaved(pp, vpp, micro_batches, pass_kind, vstage, micro_batch)
    else:
        _kernels.order_1f1b(pp, micro_batches, split, pass_kind, vstage, micro_batch)

    stages = 2 * pp if dual else pp * vpp
    _kernels.mark_variants(stages, split, pass_kind, vstage, variant)
    index = np.arange(stages, dtype=np.int32)
    before, behind = index - 1, index + 1
    behind[-1] = -1
    home, part = index % pp, index
    if dual:
        before[pp] = behind[pp - 1] = -1
        part = index % pp
        home = np.where(index < pp, part, pp - 1 - part)
    return Schedule(
        kind=kind,
        devices=pp,
        micro_batches=micro_batches,
        device_ptr=device_ptr,
        pass_kind=pass_kind,
        vstage=vstage,
        micro_batch=micro_batch,
        variant=variant,
        vstage_device=home,
        vstage_prev=before,
        vstage_next=behind,
        vstage_part=part,
        split_backward=split,
    )


_cached = lru_cache(maxsize=128)(_lay_out)


def peak_in_flight(
    schedule: Schedule,
    bytes_per_vstage: Float64,
    weight_bytes_per_vstage: Float64 | None = None,
) -> Float64:
    """Return the peak of live activations on every device, float64[D], in bytes.

    Parameters
    ----------
    schedule
        The order of passes.
    bytes_per_vstage
        float64[V], what one forward of one micro-batch leaves behind, bytes.
    weight_bytes_per_vstage
        float64[V], the part of it that the weight-gradient half still needs after the
        input-gradient half, bytes; 0 when not given. Only used where the backward is split.

    Notes
    -----
    A forward adds at its start, a pass frees at its end. With equal stages, in micro-batches:
    GPipe m; 1F1B min(p - i, m) on device i; interleaved min(v m, 2 (p - i - 1) + (v - 1) p + 1)
    chunks.
    """
    held = np.ascontiguousarray(bytes_per_vstage, np.float64)
    weight = (
        np.zeros_like(held)
        if weight_bytes_per_vstage is None
        else np.ascontiguousarray(weight_bytes_per_vstage, np.float64)
    )
    assert held.shape == weight.shape == (schedule.vstages,)
    peak = np.empty(schedule.devices)
    _kernels.peak_bytes(
        schedule.split_backward,
        schedule.device_ptr,
        schedule.pass_kind,
        schedule.vstage,
        schedule.variant,
        held,
        weight,
        peak,
    )
    return peak
