"""Conversations: turns that share what was said before, with pauses of users and tools."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ridgeline.errors import InputError
from ridgeline.workloads.traffic.build import make_traffic
from ridgeline.workloads.traffic.lengths import Lengths
from ridgeline.workloads.traffic.traffic import Traffic

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Shape of the conversations."""

    turns: Lengths = field(default_factory=lambda: Lengths(mean=4.0))
    """Turns of one conversation, at least 1."""
    system_tokens: int = 0
    """Prefix that all conversations of a group share (system prompt and tools)."""
    groups: int = 1
    """Different such prefixes."""
    said: Lengths = field(default_factory=lambda: Lengths(mean=200.0))
    """Tokens that a user or a tool adds in a turn."""
    answers: Lengths = field(default_factory=lambda: Lengths(mean=200.0))
    """Tokens generated in a turn."""
    pause_s: float = 10.0
    """Mean time between an answer and the next turn, exponential."""
    most_tokens: int = 0
    """A conversation ends before its prompt and answer grow beyond this; 0 is without limit."""
    block_tokens: int = 16
    """Prompt tokens under one identity of a shared block."""


def session_traffic(arrival_s: ArrayLike, sessions: Sessions, *, seed: int = 0) -> Traffic:
    """Return the turns of a conversation that starts at each of the listed times.

    The prompt of a turn is the system prompt, all turns and answers before it, and what is said in
    it; blocks of it have the identity of the conversation and place, those of the system prompt
    that of the group.

    Raises
    ------
    InputError
        Times that descend, or shapes that cannot be.
    """
    times = np.asarray(arrival_s, np.float64)
    _check(sessions)
    rng = np.random.default_rng([seed, 3])
    turns = sessions.turns.draw(times.size, rng)
    group = rng.integers(0, sessions.groups, times.size)
    total = int(turns.sum())
    first = np.concatenate([[0], np.cumsum(turns)])[:-1].astype(np.int64)
    owner = np.repeat(np.arange(times.size), turns)
    place = np.arange(total) - first[owner]
    said = sessions.said.draw(total, rng)
    answers = sessions.answers.draw(total, rng)
    pause = np.where(place > 0, rng.exponential(sessions.pause_s, total), 0.0)
    # what a turn finds: the running sum inside its conversation of what was said and answered
    grown = np.cumsum(said + answers)
    before_session = grown[first] - (said + answers)[first]
    history = grown - (said + answers) - before_session[owner]
    prompt = sessions.system_tokens + history + said
    kept = np.ones(total, np.bool_)
    if sessions.most_tokens:
        kept = prompt + answers <= sessions.most_tokens
        if not bool(kept.any()):
            raise InputError(
                f"sessions.most_tokens = {sessions.most_tokens}: no turn fits; raise it"
            )
    # prompts grow, so that what is cut off is the end of a conversation
    owner, place, prompt, answers, pause = (
        column[kept] for column in (owner, place, prompt, answers, pause)
    )
    # first turns in the order of their times; of the later ones none knows its time yet
    opening, later = np.flatnonzero(place == 0), np.flatnonzero(place > 0)
    order = np.concatenate([opening[np.argsort(times[owner[opening]], kind="stable")], later])
    number = np.empty(order.size, np.int64)
    number[order] = np.arange(order.size)
    after = np.where(place > 0, number[np.maximum(np.arange(order.size) - 1, 0)], -1)
    start, ids = _blocks(prompt[order], owner[order], group[owner[order]], sessions)
    return make_traffic(
        np.where(place > 0, 0.0, times[owner])[order],
        prompt[order],
        answers[order],
        after=after[order],
        pause_s=pause[order],
        block_start=start,
        block_ids=ids,
        block_tokens=sessions.block_tokens,
    )


def _blocks(
    prompt: Ints,
    owner: Ints,
    group: Ints,
    sessions: Sessions,
) -> tuple[Ints, Ints]:
    """Return where identities begin and the identities of all full blocks of all prompts."""
    size = sessions.block_tokens
    count = prompt // size
    start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    row = np.repeat(np.arange(prompt.size), count)
    place = np.arange(start[-1]) - start[row]
    shared = place < sessions.system_tokens // size
    span = int(count.max(initial=0)) + 1
    # groups first, then conversations
    identity = np.where(shared, group[row], sessions.groups + owner[row]) * span + place
    return start, identity.astype(np.int64)


def _check(sessions: Sessions) -> None:
    problems = [
        line
        for name in ("turns", "said", "answers")
        for line in getattr(sessions, name).problems(f"sessions.{name}")
    ]
    for name, least in (
        ("system_tokens", 0),
        ("groups", 1),
        ("most_tokens", 0),
        ("block_tokens", 1),
    ):
        if getattr(sessions, name) < least:
            problems.append(
                f"sessions.{name} = {getattr(sessions, name)}: must be at least {least}"
            )
    if not (math.isfinite(sessions.pause_s) and sessions.pause_s >= 0.0):
        problems.append(f"sessions.pause_s = {sessions.pause_s}: must be at least 0")
    if problems:
        raise InputError(problems)
