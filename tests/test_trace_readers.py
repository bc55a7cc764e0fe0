"""Readers of profiler traces: what sound files say, and what broken ones still say."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broken_traces import GEMM, KERNELS, REFUSED, SALVAGED, STEPS, document, events, sound
from ridgeline.errors import InputError
from ridgeline.validation.traces import streaming
from ridgeline.validation.traces.analysis import analyse
from ridgeline.validation.traces.reading import read_ranks, read_trace
from ridgeline.validation.traces.records import CATEGORIES, Collective, Trace
from ridgeline.validation.traces.steps import find_steps
from ridgeline.validation.traces.summary import summarise


def write(folder: Path, content: bytes, name: str = "trace.json") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def check_invariants(trace: Trace) -> None:
    """What is true of every trace, broken or not."""
    events = trace.events
    assert len(events) > 0
    assert np.isfinite(events.start_s).all()
    assert (events.duration_s >= 0.0).all()
    assert (np.diff(events.start_s) >= 0.0).all()
    assert events.name.min() >= 0
    assert events.name.max() < len(trace.names)
    assert events.operator.max(initial=-1) < len(trace.operators)
    assert events.collective.max(initial=-1) < len(trace.collectives)
    found = analyse((trace,))
    json.dumps(found.to_dict(), allow_nan=False)
    assert found.gemms.matched_s <= found.gemms.kernel_s * (1.0 + 1e-9)
    summary = found.summary
    assert summary.busy_s <= events.duration_s.sum() + 1e-12
    assert summary.exposed_communication_s <= summary.communication_s + 1e-12
    assert sum(summary.union_s.values()) >= summary.busy_s - 1e-12


def check_salvaged_or_refused(path: Path) -> None:
    """A trace that holds together, or one line that says why there is none."""
    refusals = []
    trace = None
    try:
        trace = read_trace(path)
    except InputError as error:
        refusals.append(str(error))
    if trace is not None:
        check_invariants(trace)
    assert all("\n" not in line for line in refusals)


def test_a_sound_trace(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, sound()))
    check_invariants(trace)
    assert (trace.rank, trace.world_size) == (3, 8)
    assert trace.device_name == "NVIDIA H100 80GB HBM3"
    assert trace.losses == ()
    assert len(trace.events) == STEPS * KERNELS
    kinds = [CATEGORIES[c] for c in trace.events.category[:KERNELS]]
    assert kinds == ["gemm"] * (KERNELS - 1) + ["communication"]
    # every kernel was launched within an operator whose shapes the trace holds
    assert {trace.operators[o].shapes for o in trace.events.operator} == {((64, 128), (128, 256))}
    # 1,024 elements of two bytes over eight ranks
    assert trace.collectives == (
        Collective(kind="all_reduce", bytes=2048.0, ranks=8, dtype="BFloat16"),
    )
    one, two = find_steps(trace)
    assert one.is_period
    assert not two.is_period
    assert one.window_s == pytest.approx(500e-6)
    summary = summarise(trace)
    assert summary.window_s == pytest.approx(500e-6)
    assert summary.busy_s == pytest.approx(KERNELS * 25e-6)
    assert summary.exposed_communication_s == pytest.approx(25e-6)


def test_names_of_hosts_users_and_paths_are_not_kept(tmp_path: Path) -> None:
    assert "secret" not in repr(read_trace(write(tmp_path, sound())))


@pytest.mark.parametrize("defect", SALVAGED)
def test_a_broken_trace_is_salvaged(tmp_path: Path, defect: str) -> None:
    trace = read_trace(write(tmp_path, SALVAGED[defect]))
    check_invariants(trace)
    assert len(trace.events) >= KERNELS - 1


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        ("truncated text", "the file ends"),
        ("truncated gzip", "the gzip stream ends early"),
        ("unescaped backslash", "1 events mended"),
        ("unescaped quote in a name", "1 events mended"),
        ("decimal comma", "1 events mended"),
        ("NaN duration", "1 events without a time left out"),
        ("infinite time", "1 events without a time left out"),
        ("negative duration", "1 events without a time left out"),
        ("events that are no objects", "3 values that are no event left out"),
        ("damaged metadata", "1 damaged metadata skipped"),
    ],
)
def test_what_was_lost_is_said(tmp_path: Path, defect: str, says: str) -> None:
    trace = read_trace(write(tmp_path, SALVAGED[defect]))
    assert any(line.startswith(says) for line in trace.losses), trace.losses


def test_a_mended_event_keeps_its_name(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, SALVAGED["unescaped quote in a name"]))
    assert 'gemm<"tn">' in trace.names
    trace = read_trace(write(tmp_path, SALVAGED["unescaped backslash"]))
    assert "C:\\work\\kernel_gemm" in trace.names


def test_a_mended_last_event_ends_the_list_and_not_the_file(tmp_path: Path) -> None:
    """What follows the events is read too."""
    text = sound().decode()
    at = text.rindex("ncclDevKernel")
    made = f"{text[:at]}nccl\\D{text[at + len('ncclD') :]}"
    trace = read_trace(write(tmp_path, made.encode()))
    assert trace.losses == ("1 events mended",)
    assert trace.names[-1].endswith("(nccl\\DevKernelArgsStorage<4096ul>)")


def test_a_long_list_of_something_else_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, b"[" + b"1," * 200_000 + b"1]")
    with pytest.raises(InputError, match="not of a trace's events"):
        read_trace(path)


@pytest.mark.parametrize("defect", REFUSED)
def test_what_says_nothing_is_refused_in_one_line(tmp_path: Path, defect: str) -> None:
    path = write(tmp_path, REFUSED[defect])
    with pytest.raises(InputError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", [1000, 70_000])
def test_an_event_on_the_edge_of_a_window_is_whole(tmp_path: Path, size: int) -> None:
    """Events far beyond one window: none is lost, doubled or changed."""
    many = []
    for k in range(400):
        for event in events():
            args = event["args"] | {"note": "x" * (size // 10)} if k % 40 == 0 else event["args"]
            many.append(event | {"ts": event["ts"] + 1e4 * k, "args": args})
    trace = read_trace(write(tmp_path, json.dumps(document(many)).encode()))
    assert len(trace.events) == 400 * STEPS * KERNELS
    assert trace.losses == ()
    assert trace.events.duration_s.sum() == pytest.approx(400 * STEPS * KERNELS * 25e-6)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_trace(tmp_path / "none.json")
    with pytest.raises(InputError, match="holds no trace"):
        read_ranks(tmp_path)


def test_a_folder_of_ranks(tmp_path: Path) -> None:
    for iteration in (10, 20):
        folder = tmp_path / f"iteration_{iteration}"
        folder.mkdir()
        for rank in (1, 0):
            made = json.dumps(document() | {"distributedInfo": {"rank": rank, "world_size": 2}})
            write(folder, made.encode(), f"rank{rank}_trace.json")
    traces = read_ranks(tmp_path)
    assert [trace.rank for trace in traces] == [0, 1]
    write(tmp_path / "iteration_20", sound().replace(b'"rank": 3', b'"rank": 1'), "again.json")
    with pytest.raises(InputError, match="says rank 1, and so does"):
        read_ranks(tmp_path)


def nsys(path: Path, *, tables: tuple[str, ...] = ("runtime", "nvtx", "gpu", "copy")) -> Path:
    """Write a small export with one kernel, one copy and one range."""
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE StringIds (id INTEGER, value TEXT)")
        base.executemany("INSERT INTO StringIds VALUES (?, ?)", [(1, GEMM), (2, "gemm")])
        base.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, deviceId INT, "
            "streamId INT, correlationId INT, demangledName INT, shortName INT)"
        )
        base.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (5000, 9000, 0, 7, 11, 1, 2)")
        if "copy" in tables:
            base.execute(
                "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INT, end INT, deviceId INT, "
                "streamId INT, correlationId INT, bytes INT)"
            )
            base.execute("INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (9500, 9600, 0, 7, 12, 64)")
        if "runtime" in tables:
            base.execute(
                "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INT, end INT, correlationId INT)"
            )
            base.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (4000, 4100, 11)")
        if "nvtx" in tables:
            base.execute("CREATE TABLE NVTX_EVENTS (start INT, end INT, text TEXT, textId INT)")
            base.execute("INSERT INTO NVTX_EVENTS VALUES (3900, 9700, NULL, 2)")
        if "gpu" in tables:
            base.execute("CREATE TABLE TARGET_INFO_GPU (name TEXT, totalMemory INT)")
            base.execute("INSERT INTO TARGET_INFO_GPU VALUES ('NVIDIA A100', 85899345920)")
    base.close()
    return path


def test_nsys(tmp_path: Path) -> None:
    trace = read_trace(nsys(tmp_path / "run.sqlite"))
    check_invariants(trace)
    assert trace.device_name == "NVIDIA A100"
    assert trace.names == (GEMM, "Memcpy")
    # ns; the runtime call at 4,000 is the first moment
    assert trace.events.start_s.tolist() == pytest.approx([1e-6, 5.5e-6])
    assert trace.events.duration_s.tolist() == pytest.approx([4e-6, 0.1e-6])
    assert trace.events.launch_s[0] == pytest.approx(0.0)
    assert trace.annotations[0].name == "gemm"


def test_nsys_makes_tables_lazily(tmp_path: Path) -> None:
    trace = read_trace(nsys(tmp_path / "run.sqlite", tables=()))
    check_invariants(trace)
    assert np.isnan(trace.events.launch_s).all()


CUPTI = b"""1000,50,RUNTIME,211,77,78,5
2000,400,KERNEL,void gemm<int, float, 4>(float*, int),0,1,7,16,1,1,128,1,1,5
2500,30,MEMCPY,1,0,1,7,6
rubbish
"""


def test_nsys_of_several_processes_reads_the_busiest(tmp_path: Path) -> None:
    """Every process counts devices and correlation ids from the start."""
    path = tmp_path / "run.sqlite"
    with sqlite3.connect(path) as base:
        base.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INT, end INT, deviceId INT, "
            "streamId INT, correlationId INT, globalPid INT)"
        )
        base.executemany(
            "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, 0, 7, ?, ?)",
            [(100, 200, 5, 1 << 24), (300, 400, 5, 2 << 24), (500, 600, 6, 2 << 24)],
        )
        base.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME "
            "(start INT, end INT, correlationId INT, globalTid INT)"
        )
        base.executemany(
            "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, 5, ?)",
            [(90, 95, (1 << 24) + 11), (290, 295, (2 << 24) + 12)],
        )
    base.close()
    trace = read_trace(path)
    check_invariants(trace)
    assert trace.events.start_s.tolist() == pytest.approx([10e-9, 210e-9])
    # the launch of the same process, not the first of that id
    assert trace.events.launch_s[0] == pytest.approx(0.0)
    assert trace.losses == ("1 other processes or devices left out, the busiest read",)


def test_nsys_of_whole_graphs(tmp_path: Path) -> None:
    """Without its kernels a replayed graph still keeps the device busy."""
    path = tmp_path / "run.sqlite"
    with sqlite3.connect(path) as base:
        base.execute(
            "CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INT, end INT, deviceId INT, "
            "streamId INT, correlationId INT, graphId INT)"
        )
        base.execute("INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (0, 5000, 0, 7, 1, 9)")
    base.close()
    trace = read_trace(path)
    check_invariants(trace)
    assert summarise(trace).busy_s == pytest.approx(5e-6)
    assert "--cuda-graph-trace=node" in trace.losses[0]


def test_cupti_text(tmp_path: Path) -> None:
    """Names of kernels contain commas, so lines are taken apart from the right."""
    trace = read_trace(write(tmp_path, CUPTI, "log.txt"))
    check_invariants(trace)
    assert trace.names[0] == "void gemm<int, float, 4>(float*, int)"
    assert trace.events.duration_s.tolist() == pytest.approx([400e-9, 30e-9])
    assert trace.events.launch_s[0] == pytest.approx(0.0)
    assert trace.losses == ("1 lines that are no activity left out",)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """Encode fields: numbers as varints, bytes with their length."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def xspace() -> bytes:
    """Return an XSpace with one TPU: a matrix product of 2 us and an all-reduce of 1 us."""
    category = message((1, 9), (7, 10))
    product = message((1, 1), (2, b"fusion.1"), (5, category))
    reduce = message((1, 2), (2, b"all-reduce.3"))
    ops = message(
        (1, 4),
        (2, b"XLA Ops"),
        (3, 1_000),
        (4, message((1, 1), (2, 5_000_000), (3, 2_000_000))),
        (4, message((1, 2), (2, 8_000_000), (3, 1_000_000))),
    )
    steps = message(
        (1, 5), (2, b"Steps"), (3, 1_000), (4, message((1, 3), (2, 4_000_000), (3, 6_000_000)))
    )
    plane = message(
        (2, b"/device:TPU:0"),
        (3, ops),
        (3, steps),
        (4, message((1, 1), (2, product))),
        (4, message((1, 2), (2, reduce))),
        (4, message((1, 3), (2, message((1, 3), (2, b"7"))))),
        (5, message((1, 9), (2, message((1, 9), (2, b"hlo_category"))))),
        (5, message((1, 10), (2, message((1, 10), (2, b"convolution fusion"))))),
    )
    host = message((2, b"/host:CPU"))
    return message((1, host), (1, plane))


def test_xplane(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, xspace(), "host.xplane.pb"))
    check_invariants(trace)
    assert trace.names == ("fusion.1", "all-reduce.3")
    assert [CATEGORIES[c] for c in trace.events.category] == ["gemm", "communication"]
    assert trace.events.start_s.tolist() == pytest.approx([0.0, 3e-6])
    assert trace.events.duration_s.tolist() == pytest.approx([2e-6, 1e-6])
    assert trace.annotations[0].duration_s == pytest.approx(6e-6)


def test_a_cut_xplane_is_salvaged_or_refused(tmp_path: Path) -> None:
    whole = xspace()
    for cut in range(1, len(whole)):
        check_salvaged_or_refused(write(tmp_path, whole[:cut], "cut.pb"))


def xla_json() -> bytes:
    """Return a trace of JAX: a matrix product of 4.5 us in a step of 8 us."""
    made = [
        {"ph": "M", "pid": 3, "name": "process_name", "args": {"name": "/device:TPU:0"}},
        {"ph": "M", "pid": 3, "tid": 1, "name": "thread_name", "args": {"name": "XLA Ops"}},
        {"ph": "M", "pid": 3, "tid": 2, "name": "thread_name", "args": {"name": "Steps"}},
        {"ph": "X", "pid": 3, "tid": 2, "name": "1", "ts": 10.0, "dur": 8.0},
        {
            "ph": "X",
            "pid": 3,
            "tid": 1,
            "name": "fusion.7",
            "ts": 10.0,
            "dur": 5.0,
            "args": {"hlo_category": "convolution fusion", "device_duration_ps": "4500000"},
        },
        {},
    ]
    return json.dumps({"traceEvents": made}).encode()


def test_json_of_xla(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, xla_json()))
    check_invariants(trace)
    assert trace.format == "xla-json"
    assert trace.events.duration_s.tolist() == pytest.approx([4.5e-6])
    assert CATEGORIES[trace.events.category[0]] == "gemm"


def _nsys_bytes() -> bytes:
    with TemporaryDirectory() as folder:
        return nsys(Path(folder) / "run.sqlite").read_bytes()


SOUND = {
    "kineto": sound(),
    "gzip": SALVAGED["gzip"],
    "bare list": SALVAGED["bare list"],
    "xplane": xspace(),
    "xla-json": xla_json(),
    "cupti": CUPTI,
    "nsys": _nsys_bytes(),
}
"""One of each format."""


@pytest.mark.parametrize(("longest", "losses"), [(8 << 20, 0), (1 << 20, 1)])
def test_a_long_value_beside_the_events_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, losses: int
) -> None:
    """Stack frames of a trace may be longer than a window, or than what is waited for."""
    monkeypatch.setattr(streaming, "MAX_METADATA", longest)
    made = json.dumps({"stackFrames": "x" * (6 << 20)} | document()).encode()
    trace = read_trace(write(tmp_path, made))
    assert len(trace.events) == STEPS * KERNELS
    assert trace.losses == ("1 damaged metadata skipped",) * losses


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(list(SOUND)),
    cuts=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=12)), max_size=4
    ),
)
def test_no_mutation_brings_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, kind: str, cuts: list[tuple[int, int, bytes]]
) -> None:
    """Bytes replaced, dropped and added anywhere: a salvage or one line."""
    base = SOUND[kind]
    for at, length, new in cuts:
        place = at % (len(base) + 1)
        base = base[:place] + new + base[place + length :]
    check_salvaged_or_refused(write(tmp_path_factory.getbasetemp(), base, "mutated"))


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([2**31, -(2**63), 1e308, "", "-1", "9" * 400, "[0, 1]", "allreduce"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)

MORE = ("bytes", "stream", "Process Group Ranks", "Input Dims", "Input type", "Collective name")


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), ANYTHING), min_size=1, max_size=6
    )
)
def test_no_value_of_another_kind_brings_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int, object]]
) -> None:
    """Any value where another one belongs, in events, their arguments and beside them."""
    made = document()
    some = [made, made["distributedInfo"], *made["deviceProperties"]]
    some += [place for event in made["traceEvents"] for place in (event, event["args"])]
    for where, which, value in changes:
        place = some[where % len(some)]
        keys = [*(k for k in place if k != "traceEvents"), *MORE]
        place[keys[which % len(keys)]] = value
    check_salvaged_or_refused(
        write(tmp_path_factory.getbasetemp(), json.dumps(made).encode(), "changed.json")
    )


HUNGRY = """
import random, resource, sys
from pathlib import Path

limit = 2 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from broken_traces import REFUSED, SALVAGED
from test_trace_readers import SOUND
from ridgeline.errors import InputError
from ridgeline.validation.traces.analysis import analyse
from ridgeline.validation.traces.reading import read_trace

path, chance, files = Path(sys.argv[1]), random.Random(0), []
for content in (*REFUSED.values(), *SALVAGED.values()):
    files.append(content[0] if isinstance(content, tuple) else content)
for number in range(300):
    base = SOUND[chance.choice(sorted(SOUND))]
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randrange(len(base) + 1), chance.choice((0, 1, 8, 4096))
        base = base[:place] + chance.randbytes(chance.choice((0, 1, 4, 9))) + base[place + length :]
    files.append(base)
for content in files:
    path.write_bytes(content)
    try:
        analyse((read_trace(path),))
    except InputError:
        pass
print(len(files), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_broken_files_stay_under_two_gibibytes(tmp_path: Path) -> None:
    """The system itself refuses more address space."""
    paths = [str(Path(__file__).parent), *sys.path]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-c", HUNGRY, str(tmp_path / "trace")],
        env=env | one,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    count, peak = map(int, done.stdout.split())
    assert count >= 325
    assert peak < 2**31
