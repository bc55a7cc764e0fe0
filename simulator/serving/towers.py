"""Passes of a service beside its own stack: encoders that read prompts, towers that read images.

An encoder reads the whole prompt once, bidirectionally; the decoder's layers then keep keys and
values of its output, which take the place that those of the prompt have in a decoder's own cache:
as many bytes a token, read by as many queries. So one step at a context of n + m tokens, n of the
input and m written, costs what self-attention over n + m does, split into two kernels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ridgeline.simulator.serving.products import Product
from ridgeline.simulator.serving.service import Service, Speculation
from ridgeline.simulator.serving.shape import Shape, make_shape
from ridgeline.workloads.towers import Tower, cross_width


def tower_service(service: Service, tower: Tower) -> Service:
    """Return the service of a tower on the accelerators of the model's: whole on every stage."""
    limits = replace(service.limits, chunked_prefill=None, prefix_caching=False)
    return replace(service, model=tower.model, pp=1, ep=1, limits=limits, speculation=Speculation())


def tower_shape(s: Shape, tower: Tower) -> Shape:
    """Return the local sizes of a tower."""
    return make_shape(tower_service(s.service, tower))


def memory_products(s: Shape) -> Counter[Product]:
    """Return the products that make keys and values of the encoder's output, all layers."""
    cross = s.model.cross
    if cross is None:
        return Counter()
    width = -(-cross_width(s.model) // s.service.tp)
    return Counter({Product(2 * width, cross.hidden): s.model.num_layers})


def projector_products(tower: Tower) -> Counter[Product]:
    """Return the products between a tower and the model; every tensor rank has them whole."""
    return Counter(Product(outputs, inputs) for inputs, outputs in tower.projector)
