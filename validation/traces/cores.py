"""A plan whose kernels run beside others that hold some of the device's SMs."""

from __future__ import annotations

from dataclasses import replace

from ridgeline.errors import InputError
from ridgeline.simulator.plan import Plan


def with_sms(plan: Plan, sms: int | None) -> Plan:
    """Return the plan on ``sms`` of its accelerator's SMs (or CUs); None for all.

    The peak falls with the SMs, bandwidth stays. Programs that reserve SMs for communication
    (DeepSeek-V3 20 of 132, arXiv 2412.19437, section 3.2.2) run everything else on the rest.

    Raises
    ------
    InputError
        More SMs than the accelerator has, or none.
    """
    if sms is None:
        return plan
    device = plan.cluster.accelerator
    if not 0 < sms <= device.cores:
        raise InputError(f"--sms {sms}: {device.name} has {device.cores}; give 1 to that many")
    share = sms / device.cores
    fewer = replace(
        device,
        cores=sms,
        peak_flops={dtype: share * peak for dtype, peak in device.peak_flops.items()},
    )
    return replace(plan, cluster=replace(plan.cluster, accelerator=fewer))
