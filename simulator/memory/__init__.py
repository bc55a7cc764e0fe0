"""Bytes per accelerator, by cause and by pipeline stage."""

from ridgeline.simulator.memory.activations import (
    EndActivations,
    LayerActivations,
    activation_bytes,
    end_activations,
)
from ridgeline.simulator.memory.changes import Change, cheapest_changes
from ridgeline.simulator.memory.facts import MemoryFacts, memory_facts
from ridgeline.simulator.memory.stage import stage_memory
from ridgeline.simulator.memory.state import StateBytes, parameter_bytes, state_bytes

__all__ = [
    "Change",
    "EndActivations",
    "LayerActivations",
    "MemoryFacts",
    "StateBytes",
    "activation_bytes",
    "cheapest_changes",
    "end_activations",
    "memory_facts",
    "parameter_bytes",
    "stage_memory",
    "state_bytes",
]
