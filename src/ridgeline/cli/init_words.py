"""From a question in one line to what it asks: a small grammar of numbers, names and units.

The line is read from left to right. At each place the rules below are tried in order, then names
of models, accelerators and clusters, the longest first; what is none of these and no filler is
refused together with the nearest names. Nothing is guessed from a word that was not understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ridgeline.errors import InputError
from ridgeline.hardware import accelerator_names, cluster_names, load_accelerator
from ridgeline.simulator.serving.engines import engine_aliases, engine_names
from ridgeline.simulator.stacks import stack_names
from ridgeline.workloads.catalogue import model_aliases, model_names

LONGEST_QUESTION = 2000
"""Characters: a question of one line is shorter."""
_MOST_WORDS = 4
"""Of a name: rtx pro 6000, llama 3 70b."""
_NUMBER = (
    r"(\d+(?:\.\d+)?(?:e\+?\d+)?)\s*(k|m|bn|b|g|t|thousand|million|billion|trillion)?(?![\w.])"
)
_SIZE = {
    "": 1.0,
    **dict.fromkeys(("k", "thousand"), 1e3),
    **dict.fromkeys(("m", "million"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion"), 1e9),
    **dict.fromkeys(("t", "trillion"), 1e12),
}
_SPAN = r"(\d+(?:\.\d+)?)\s*(min(?:ute)?s?|h(?:our)?s?|d(?:ay)?s?|w(?:eek)?s?|months?)(?!\w)"
_SECONDS = {"mi": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "mo": 30 * 86400.0}
_LIMIT = r"(\d+(?:\.\d+)?)\s*(ms|s)(?!\w)"
_COUNTED = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "eight": 8, "sixteen": 16}
_BOUND = r"(?:in|within|under|below|by|over|for|at most|max(?:imum)?|up to|<=?|=|of|is|deadline)"
_PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "w4a16", "nvfp4", "mxfp4")
_FILLERS = """
; a about accelerator accelerators an and at by can chips cluster cost do does dollars each for from
gpu gpus how i i'd if in is it like long machine machines many model much my need of on our over
please requests run scratch see service should take takes that the to tokens training under using
want we what will with within would you
"""


@dataclass(slots=True, kw_only=True)
class Wish:
    """What a line asks for; what it leaves open is 0, empty or None."""

    serve: bool | None = None
    model: str = ""
    accelerator: str = ""
    spec: str = ""
    """Short name of a cluster that says more than accelerators and their number."""
    count: int = 0
    nodes: int = 0
    per_node: int = 0
    tokens: float = 0.0
    seq_len: int = 0
    batch_seqs: int = 0
    batch_tokens: float = 0.0
    precision: str = ""
    stack: str = ""
    engine: str = ""
    budget_usd: float = 0.0
    deadline_s: float = 0.0
    goal: str = ""
    """``cost`` or ``time``."""
    request_rate: float = 0.0
    concurrency: int = 0
    input_len: int = 0
    output_len: int = 0
    limits: dict[str, str] = field(default_factory=dict)
    """Figure -> limit with its unit, as the SLO of a plan file has them."""
    understood: list[tuple[str, str]] = field(default_factory=list)
    """Words, and what they were taken for."""


def read_wish(line: str) -> Wish:
    """Return what a line asks for.

    Raises
    ------
    InputError
        Words that mean nothing here, two answers to one question, or neither model nor hardware;
        one line each.
    """
    if len(line) > LONGEST_QUESTION:
        raise InputError(f"question: has {len(line):,} characters; at most {LONGEST_QUESTION:,}")
    text = re.sub(r"(?<=\d),(?=\d{3})", "", line)
    text = re.sub(r"[,;?!.]+(?=\s|$)", " ;", text)
    text = re.sub(r"\s+", " ", text).strip()
    wish = Wish()
    problems: list[str] = []
    place = 0
    while place < len(text):
        step = _rule(wish, text, place, problems) or _name(wish, text, place, problems)
        place += step or _skip(text[place:], problems)
        place += len(text[place:]) - len(text[place:].lstrip())
    problems += _contradictions(wish) if problems else (*_missing(wish), *_contradictions(wish))
    if problems:
        raise InputError(problems)
    return wish


def _missing(wish: Wish) -> Iterator[str]:
    if not wish.model:
        yield "question: names no model; ridgeline models list has the names"
    if not (wish.accelerator or wish.spec):
        yield "question: does not say on what; for example: on 64 h100"


def _contradictions(wish: Wish) -> Iterator[str]:
    """Settle whether it is training or serving, and yield what belongs to the other."""
    serving = (wish.request_rate, wish.concurrency, wish.input_len, wish.output_len, wish.limits)
    training = (wish.tokens, wish.batch_seqs, wish.batch_tokens, wish.stack, wish.deadline_s)
    if wish.serve and any(training):
        yield "question: mixes training (tokens, batch, stack, deadline) into serving; leave it out"
    if wish.serve is False and any((*serving, wish.engine)):
        yield "question: mixes serving (requests, prompts, engine) into training; leave it out"
    if wish.serve is None:
        wish.serve = any((*serving, wish.engine))


def _set(wish: Wish, problems: list[str], words: str, **values: Any) -> None:
    """Take in what words say, unless others said otherwise before."""
    for name, value in values.items():
        had = getattr(wish, name)
        if had not in (None, 0, "") and had != value:
            problems.append(
                f"{words!r}: {name.replace('_', ' ')} was {_shown(had)} before; say it once"
            )
        setattr(wish, name, value)
    if "serve" in values:
        told = "a service" if wish.serve else "a training run"
    else:
        told = ", ".join(
            f"{name.replace('_', ' ')} {_shown(value)}" for name, value in values.items()
        )
    wish.understood.append((words, told))


def _shown(value: object) -> str:
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)


def _count(match: re.Match[str]) -> float:
    return float(match[1]) * _SIZE[(match[2] or "").lower()]


def _whole(match: re.Match[str]) -> int:
    return round(_count(match))


def _length(match: re.Match[str]) -> int:
    """Return a length in tokens; its k is 1,024, as in 8k of context."""
    return round(_count(match) * (1.024 if match[2] in ("k", "K") else 1.0))


def _seconds(match: re.Match[str]) -> float:
    unit = match[2].lower()
    return float(match[1]) * _SECONDS[unit[:2] if unit.startswith("m") else unit[0]]


def _rate(match: re.Match[str]) -> float:
    return float(match[1]) / {"s": 1.0, "m": 60.0, "h": 3600.0}[(match[2] or "s").lower()]


_ANSWERS = "(?:answers?|outputs?|completions?|responses?)"
_CONTEXT = "(?:context(?: length| window)?|ctx)"
_SEQUENCE = "(?:sequences?(?: length)?|seq(?:[ -]?len(?:gth)?)?)"
_LAST = r"(?! (?:length |of )*\d)"
"""Behind a length: a number that follows would be the one that is meant."""
_RATES = "(?:requests?|reqs?|queries)(?: an?| per| every|/)? ?(s|m|h)(?:ec(?:ond)?|in(?:ute)?|our)?"
_USERS = "(?:concurrent(?: users| requests)?|users|(?:requests )?in flight|concurrency)"
_RULES: tuple[tuple[str, Callable[[re.Match[str]], Any], str], ...] = (
    ("batch_tokens", _count, rf"{_NUMBER}[ -]tokens? (?:a |per |/ ?)?(?:batch|step)"),
    ("batch_tokens", _count, rf"(?:global )?batch(?:es)?(?: size)?(?: of)? {_NUMBER} tokens"),
    ("batch_seqs", _whole, rf"(?:global[ -])?batch(?:es)?(?:[ -]size)?(?: of)? {_NUMBER}"),
    ("batch_seqs", _whole, rf"{_NUMBER} (?:sequences|seqs)(?: (?:a|per) (?:batch|step))?"),
    ("input_len", _length, rf"(?:prompts?|inputs?)(?: lengths?)?(?: of)? {_NUMBER}(?: tokens)?"),
    ("output_len", _length, rf"{_ANSWERS}(?: lengths?)?(?: of)? {_NUMBER}(?: tokens)?"),
    ("input_len", _length, rf"{_NUMBER}[ -](?:tokens? )?(?:prompts?|inputs?)(?: tokens)?"),
    ("input_len", _length, rf"{_NUMBER} in(?=.* out\b)"),
    ("output_len", _length, rf"{_NUMBER}[ -](?:tokens? )?(?:{_ANSWERS}|out)(?: tokens)?"),
    ("seq_len", _length, rf"(?:{_CONTEXT}|{_SEQUENCE})(?: of)? {_NUMBER}(?: tokens)?"),
    ("seq_len", _length, rf"{_NUMBER}[ -](?:tokens? )?(?:of )?(?:{_CONTEXT}|{_SEQUENCE}){_LAST}"),
    ("tokens", _count, rf"{_NUMBER}[ -]tokens?"),
    ("budget_usd", _count, rf"(?:budget|{_BOUND})?(?: of)? ?\$ ?{_NUMBER}"),
    ("budget_usd", _count, rf"(?:(?:budget|{_BOUND}) (?:of )?)?{_NUMBER} ?(?:dollars|usd)"),
    ("budget_usd", _count, rf"budget (?:of )?{_NUMBER}"),
    ("request_rate", _rate, rf"(\d+(?:\.\d+)?) ?(?:rps|qps|{_RATES})"),
    ("concurrency", _whole, rf"{_NUMBER} {_USERS}"),
    ("concurrency", _whole, rf"concurrency(?: of)? {_NUMBER}"),
    ("deadline_s", _seconds, rf"(?:(?:{_BOUND}) )?{_SPAN}"),
    ("precision", lambda match: match[1].lower(), rf"({'|'.join(_PRECISIONS)})"),
)
"""Field of a wish, how its value is read off a match, and what the words look like."""
_WORDS: tuple[tuple[str, Any, str], ...] = (
    ("serve", False, r"(?:pre-?)?train(?:s|ing)?"),
    ("serve", True, r"(?:serv(?:e|es|ing)|infer(?:ence)?|host(?:ing)?|deploy(?:ing)?)"),
    ("goal", "cost", r"(?:cheap(?:est|ly)?|lowest cost)"),
    ("goal", "time", r"(?:fast(?:est)?|quick(?:est|ly)?)"),
)
_FIGURES = {
    "ttft": r"(?:ttft|first token|time to first token)",
    "tpot": r"(?:tpot|itl|per (?:output )?token|time per (?:output )?token)",
    "latency": r"(?:latency|end to end)",
}


def _rule(wish: Wish, text: str, place: int, problems: list[str]) -> int:
    """Apply the first rule that holds at a place and return how far it reaches."""
    for figure, words in _FIGURES.items():
        for pattern in (
            rf"{words}(?: {_BOUND}|[=<]+)* ?{_LIMIT}(?:@p\d+)?",
            rf"{_LIMIT} (?:to )?{words}",
        ):
            if match := _match(pattern, text, place):
                wish.limits[figure] = match[1] + match[2]
                wish.understood.append((match[0], f"{figure} at most {match[1]} {match[2]}"))
                return match.end() - place
    for name, read, words in _RULES:
        if match := _match(words, text, place):
            _set(wish, problems, match[0], **{name: read(match)})
            return match.end() - place
    for name, value, words in _WORDS:
        if match := _match(words, text, place):
            _set(wish, problems, match[0], **{name: value})
            return match.end() - place
    return 0


def _match(words: str, text: str, place: int) -> re.Match[str] | None:
    """Return whether whole words stand at a place."""
    return re.compile(words + r"(?!\S)", re.IGNORECASE).match(text, place)


def _name(wish: Wish, text: str, place: int, problems: list[str]) -> int:
    """Take in a model, hardware, a stack or an engine, the longest name first."""
    words = text[place:].split(" ")
    for length in range(min(_MOST_WORDS, len(words)), 0, -1):
        said = " ".join(words[:length])
        found = _named(said)
        if found:
            _set(wish, problems, said, **found)
            return len(said)
    return _counted(wish, text, place, problems)


_NODES = (
    r"(\d+|" + "|".join(_COUNTED) + r") (?:nodes?|servers?|box(?:es)?)"
    r"(?: (?:of|with))?(?: (?:(\d+) ?x?|" + "|".join(_COUNTED) + r"))? "
)


def _counted(wish: Wish, text: str, place: int, problems: list[str]) -> int:
    """Take in so many accelerators: 512 h100, two nodes of 8 h100."""
    for pattern in (_NODES, r"(\d+|" + "|".join(_COUNTED) + r") ?[x×]? ?"):
        match = re.compile(pattern, re.IGNORECASE).match(text, place)
        if match is None:
            continue
        words = text[match.end() :].split(" ")
        for length in range(min(_MOST_WORDS, len(words)), 0, -1):
            said = " ".join(words[:length])
            accelerator = _accelerator(said)
            if not accelerator:
                continue
            number = _COUNTED.get(match[1].lower()) or int(match[1])
            if number < 1:
                problems.append(f"{match[0] + said!r}: must be at least 1")
            found: dict[str, Any] = {"accelerator": accelerator}
            if pattern is _NODES:
                found |= {"nodes": number} | ({"per_node": int(match[2])} if match[2] else {})
            else:
                found |= {"count": number}
            _set(wish, problems, match[0] + said, **found)
            return match.end() - place + len(said)
    return 0


def _named(said: str) -> dict[str, Any]:
    """Return what a name stands for, empty when it stands for nothing."""
    if " " in said and "/" in said:
        return {}
    if said.endswith(".json"):
        return {"model": said}
    key = _key(said)
    if key in _models():
        return {"model": _models()[key]}
    if accelerator := _accelerator(said):
        return {"accelerator": accelerator}
    spec = re.fullmatch(r"\d+x\S*[a-z]\S*|[a-z][\w.-]*:[\w*]+", said, re.IGNORECASE)
    if spec or said.lower() in cluster_names():
        return {"spec": said}
    said = said.lower()
    if said in stack_names():
        return {"stack": said}
    if said in engine_names() or said in engine_aliases():
        return {"engine": said}
    return {}


def _accelerator(said: str) -> str:
    if said.endswith(".toml") and " " not in said:
        return said
    for word in (said, said.removesuffix("s"), re.sub(r" ?(?:gpu|chip)s?$", "", said)):
        try:
            return load_accelerator(word).name
        except InputError:
            continue
    return ""


def _key(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.rsplit("/", 1)[-1].lower())


def _models() -> dict[str, str]:
    """Return what is left of each name of a model without its hyphens -> the name."""
    aliases = {_key(alias): name for alias, name in model_aliases().items()}
    return aliases | {_key(name): name for name in model_names()}


def _skip(rest: str, problems: list[str]) -> int:
    """Pass over a filler, or refuse a word (and the number before it); return how long it is."""
    words = rest.split(" ")
    said = words[0]
    if re.fullmatch(r"[\d.]+", said) and len(words) > 1 and words[1] not in _FILLERS.split():
        said = f"{said} {words[1]}"
    if said.lower() not in _FILLERS.split():
        problems.append(_unknown(said))
    return len(said)


def _unknown(said: str) -> str:
    word = said.split(" ")[-1].lower()
    known = {*model_names(), *model_aliases(), *accelerator_names(), *stack_names()}
    known |= {*engine_names(), "train", "serve", "tokens", "context", "batch", "budget"}
    close = get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    hint = (
        f"did you mean {' or '.join(repr(name) for name in close)}?"
        if close
        else "ridgeline init --help says what can be said"
    )
    return f"{said[:80]!r}: is no model, accelerator or word that is understood; {hint}"
