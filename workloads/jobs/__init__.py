"""Jobs that were submitted to real clusters: when, on how many accelerators, for how long."""

from ridgeline.workloads.jobs.record import TraceJob
from ridgeline.workloads.jobs.traces import FORMATS, read_jobs

__all__ = ["FORMATS", "TraceJob", "read_jobs"]
