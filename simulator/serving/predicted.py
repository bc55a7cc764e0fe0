"""Prompts that a small model reads, whose KV predicts that of the model which answers.

KV Prediction (Horton et al. 2024, arXiv 2410.08391): an auxiliary model runs the prompt, linear
predictors turn its keys and values into those of every layer of the base, and the base runs one
token for the first answer; after that the base decodes alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import InputError
from ridgeline.simulator.serving.products import Product, device_table, products_seconds
from ridgeline.simulator.serving.service import Service
from ridgeline.simulator.serving.shape import Shape, make_shape
from ridgeline.workloads.catalogue import load_model
from ridgeline.workloads.flops import forward_flops
from ridgeline.workloads.model import Model

Floats = NDArray[np.float64]


def auxiliary(service: Service) -> Service:
    """Return the service of the auxiliary model on the same ranks.

    Raises
    ------
    InputError
        A model that cannot predict: unknown, or without keys and values by head.
    """
    model = load_model(service.kv_predictor)
    for one in (model, service.model):
        if one.attention.kind == "mla" or one.linear is not None:
            raise InputError(
                f"kv_predictor = {service.kv_predictor!r}: {one.name} has no keys and values by "
                "head in every layer to predict from or to"
            )
    if service.pp > 1:
        raise InputError(
            f"kv_predictor = {service.kv_predictor!r}: with pp = {service.pp} prompts and decodes "
            "have different stages; take pp = 1"
        )
    plain = replace(
        service, model=model, kv_predictor="", precision="bf16", tp=1, dp=1, ep=1, replicas=1
    )
    return replace(plain, tp=service.tp, replicas=service.replicas, dp=service.dp)


def predictor_products(s: Shape, aux: Shape) -> list[Product]:
    """Return the products that predict the base's keys and values, for all its layers.

    Keys from keys and values from values: each layer of the base from one of the auxiliary model.
    """
    a, b = aux.model.attention, s.model.attention
    keys = Product(s.kv_heads * b.head_dim, a.kv_heads * a.head_dim)
    values = Product(s.kv_heads * b.v_head_dim, a.kv_heads * a.v_head_dim)
    return [keys, values]


def predictor_seconds(s: Shape, tokens: Floats) -> Floats:
    """Return the seconds of all predictors for the tokens of a rank, float64[T]."""
    aux = make_shape(auxiliary(s.service))
    products: Counter[Product] = Counter()
    for product in predictor_products(s, aux):
        products[product] += s.model.num_layers
    return products_seconds(products, tokens, aux, device_table(aux))


def predictor_parameters(base: Model, aux: Model) -> float:
    """Return the parameters of all predictors."""
    a, b = aux.attention, base.attention
    keys = a.kv_heads * a.head_dim * b.kv_heads * b.head_dim
    values = a.kv_heads * a.v_head_dim * b.kv_heads * b.v_head_dim
    return float(base.num_layers * (keys + values))


def first_token_flops(base: Model, aux: Model, prompt: int) -> float:
    """Return the FLOPs until the first token: auxiliary prompt, predictors, one token of the base.

    Of the base by itself it is ``forward_flops`` of the prompt.
    """
    reading = forward_flops(aux, prompt).total * prompt
    predicting = 2.0 * predictor_parameters(base, aux) * prompt
    return reading + predicting + forward_flops(base, 2 * prompt).total
