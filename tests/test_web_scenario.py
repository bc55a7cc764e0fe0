from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.errors import InputError
from ridgeline.simulator.plan_schema import SECTIONS
from ridgeline.simulator.planfile import read_plan
from ridgeline.simulator.serving.servicefile import read_service
from ridgeline.web.fields import GROUPS, Kind, fields_of
from ridgeline.web.measures import Measure, contrasts
from ridgeline.web.scenario import (
    SECOND,
    first_scenario,
    make_scenario,
    read_query,
)

KINDS: tuple[Kind, ...] = get_args(Kind)
FILES = (
    *("model.config", "model.expert_load", "cluster.graph", "serving.trace", "money.prices"),
    "training.trace",
)
TRAINING = {
    "model.name": "llama3.1-8b",
    "cluster.accelerator": "h100-sxm",
    "cluster.count": "8",
    "training.seq_len": "4096",
    "training.global_batch_seqs": "16",
}
SERVICE = {
    "model.name": "llama3.1-8b",
    "cluster.accelerator": "h100-sxm",
    "cluster.count": "2",
    "serving.concurrency": "4",
}


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_keys_of_the_plan_file_and_none_names_a_file(kind: Kind) -> None:
    fields = fields_of(kind)
    assert len(fields) == sum(len(group.fields) for group in GROUPS[kind])
    for key, field in fields.items():
        section, _, name = key.partition(".")
        assert name in SECTIONS[section].model_fields
        assert key not in FILES
        if field.shape == "choice":
            assert field.names is not None
            assert field.default in (None, "", *field.names())
    labels = [field.label for field in fields.values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_page_asks_what_can_be_answered(kind: Kind) -> None:
    scenario = first_scenario(kind)
    assert scenario.plan() if kind == "train" else scenario.service()


@pytest.mark.parametrize(("kind", "texts"), [("train", TRAINING), ("serve", SERVICE)])
def test_a_link_says_all_and_in_one_way(kind: Kind, texts: dict[str, str]) -> None:
    scenario = make_scenario(kind, texts)
    first, second = read_query(scenario.query)
    assert second == {}
    assert make_scenario(kind, first) == scenario
    assert make_scenario(kind, dict(reversed(texts.items()))) == scenario
    assert hash(make_scenario(kind, first)) == hash(scenario)


def test_defaults_and_empty_boxes_are_left_out() -> None:
    more = {
        "parallel.tp": "1",
        "training.precision": "bf16",
        "training.tokens": "",
        "money.pue": " ",
    }
    stated = {key: text.strip() for key, text in more.items()}
    assert make_scenario("train", {**TRAINING, **stated}) == make_scenario("train", TRAINING)


def test_two_scenarios_share_a_link() -> None:
    one, other = make_scenario("train", TRAINING), first_scenario("train")
    query = "&".join((one.query, *(f"{SECOND}{pair}" for pair in other.query.split("&"))))
    first, second = read_query(query)
    assert make_scenario("train", first) == one
    assert make_scenario("train", second) == other


def test_the_plan_file_of_a_training_run_says_the_same(tmp_path: Path) -> None:
    texts = {**TRAINING, "parallel.tp": "2", "parallel.sp": "true", "training.tokens": "15T"}
    scenario = make_scenario("train", {**texts, "money.usd_per_accelerator_hour": "2.5"})
    file = tmp_path / "plan.toml"
    file.write_text(scenario.toml(), encoding="utf-8")
    assert replace(read_plan(file), name="") == scenario.plan()


def test_the_plan_file_of_a_service_says_the_same(tmp_path: Path) -> None:
    texts = {**SERVICE, "serving.slo": "ttft=500ms", "serving.prefix_caching": "true"}
    scenario = make_scenario("serve", texts)
    file = tmp_path / "plan.toml"
    file.write_text(scenario.toml(), encoding="utf-8")
    assert read_service(file) == read_service(None, {**dict(scenario.values), "name": "plan"})


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_link_names_no_file(kind: Kind, key: str) -> None:
    with pytest.raises(InputError, match="a link reads no file"):
        make_scenario(kind, {**TRAINING, key: "/etc/passwd"})


@pytest.mark.parametrize(
    ("key", "text", "rule"),
    [
        ("model.name", "../../../etc/passwd", "is not on the list"),
        ("model.name", "/etc/config.json", "is not on the list"),
        ("model.name", "<script>alert(1)</script>", "is not on the list"),
        ("model.name", "llama3.1-8", "did you mean 'llama3.1-8b'"),
        ("model.name", "x" * 5000, "at most 100 characters"),
        ("stack.name", "/tmp/mine.toml", "is not on the list"),
        ("cluster.accelerator", "./mine.toml", "is not on the list"),
        ("cluster.spec", "8x./mine.toml", "must be a short name"),
        ("cluster.spec", "8xmine.toml", "must be a short name"),
        ("cluster.spec", "8x../../hardware/x", "must be a short name"),
        ("cluster.spec", "8xh100\n", "must be plain text"),
        ("cluster.count", "1e9", "must be a whole number"),
        ("cluster.count", "nan", "must be a whole number"),
        ("cluster.count", "９", "must be a whole number"),
        ("cluster.count", "9" * 19, "must be a whole number"),
        ("money.pue", "nan", "must be a number"),
        ("money.pue", "inf", "must be a number"),
        ("money.pue", "1e999", "must be a number"),
        ("money.pue", "0x10", "must be a number"),
        ("training.tokens", "\x00", "must be plain text"),
        ("parallel.sp", "yes", "must be true or false"),
        ("model.layers", "1000000000", "unknown key"),
        ("__class__", "1", "unknown key"),
    ],
)
def test_what_is_refused_before_the_plan_file_is_read(key: str, text: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule) as caught:
        make_scenario("train", {**TRAINING, key: text})
    (line,) = caught.value.problems
    assert "\n" not in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("key", "text", "rule"),
    [
        ("cluster.count", "1000000000", "at most 10,000,000"),
        ("cluster.count", "-8", "at least 1"),
        ("training.seq_len", "0", "at least 1"),
        ("parallel.tp", "3", "tp"),
        ("training.recompute", "everything", "is not known"),
        ("money.region", "atlantis", "atlantis"),
        ("training.tokens", "many", "must be a count"),
        ("cluster.spec", "8xh100-sxm", "spec says it too"),
    ],
)
def test_what_the_plan_file_refuses_is_refused_in_the_words_of_the_form(
    key: str, text: str, rule: str
) -> None:
    scenario = make_scenario("train", {**TRAINING, key: text})
    with pytest.raises(InputError, match=rule):
        scenario.plan()


def test_a_page_plays_no_more_than_it_can() -> None:
    with pytest.raises(InputError, match="at most 20,000 on a page; ridgeline infer plays more"):
        make_scenario("serve", {**SERVICE, "serving.requests": "20001"})


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ("model.name=a&model.name=b", "given twice"),
        ("%ff=1", "UTF-8"),
        ("&".join(f"k{n}=1" for n in range(1000)), "at most 160 keys"),
    ],
)
def test_links_that_are_none(query: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        read_query(query)


@given(st.dictionaries(st.sampled_from(sorted(fields_of("serve"))), st.text(max_size=12)))
def test_no_text_breaks_a_form(texts: dict[str, str]) -> None:
    made = None
    with suppress(InputError):
        made = make_scenario("serve", texts)
    assert made is None or make_scenario("serve", made.pairs()) == made


def test_the_better_figure_wins() -> None:
    def figures(seconds: float, mfu: float) -> tuple[Measure, ...]:
        return (
            Measure(label="Step time", value=seconds, text=f"{seconds}", better="less"),
            Measure(label="MFU", value=mfu, text=f"{mfu}", better="more"),
        )

    time, mfu = contrasts(figures(2.0, 0.4), figures(1.0, 0.3))
    assert (time.winner, time.difference) == ("b", "−50.0%")
    assert (mfu.winner, mfu.difference) == ("a", "−25.0%")
    same, more = contrasts(figures(2.0, 0.1), figures(2.001, 0.4))
    assert (same.winner, same.difference) == ("", "the same")
    assert (more.winner, more.difference) == ("b", "4 times")
    assert contrasts(figures(2.0, 0.1), ()) == ()
