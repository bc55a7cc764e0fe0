"""``ridgeline cluster``: files in, answers out, and everything wrong said at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.simulator.fleet.fleetfile import read_fleet
from ridgeline.workloads.jobs import read_jobs

ROOT = Path(__file__).resolve().parent.parent
POOL = '[[pool]]\nname = "p"\naccelerator = "h100-sxm"\nnodes = 2\nfailures = "none"\n'
PHILLY = [
    {
        "status": "Pass", "vc": "ee9e8c", "jobid": "application_1", "user": "ce2f4c",
        "submitted_time": "2017-10-07 01:11:39",
        "attempts": [
            {"start_time": "2017-10-07 01:12:09", "end_time": "2017-10-07 01:13:23",
             "detail": [{"ip": "m47", "gpus": ["gpu0", "gpu1"]}]},
            {"start_time": "2017-10-07 01:13:30", "end_time": "2017-10-07 01:14:30",
             "detail": [{"ip": "m1", "gpus": ["gpu0", "gpu1"]}]},
            {"start_time": "2017-10-08 01:13:30", "end_time": None, "detail": []},
        ],
    },
    {"status": "Killed", "vc": "a", "jobid": "never ran", "user": "b",
     "submitted_time": "2017-10-07 01:11:00", "attempts": []},
]  # fmt: skip
HELIOS = """job_id,user,vc,gpu_num,state,submit_time,duration
1425512,uVMrF,vchbv,4,FAILED,2020-06-09 18:41:27,249
1425511,uXBbc,vcJkd,1,COMPLETED,2020-06-09 18:41:01,36848
1425513,uXBbc,vcJkd,0,COMPLETED,2020-06-09 18:41:01,10
"""
PAI = """j1,ps,1.0,Terminated,100.0,200.0,600.0,29.3,,
j1,worker,4.0,Terminated,110.0,250.0,600.0,29.3,50.0,V100
j1,evaluator,1.0,Terminated,120.0,240.0,600.0,29.3,100.0,V100
j2,tensorflow,1.0,Running,300.0,,600.0,29.3,100.0,MISC
"""


def write(tmp_path: Path, text: str, name: str = "fleet.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_published_traces_are_read(tmp_path: Path) -> None:
    (job,) = read_jobs(write(tmp_path, json.dumps(PHILLY), "cluster_job_log"))
    assert (job.name, job.accelerators, job.duration_s) == ("application_1", 2, 74.0 + 60.0)
    first, second = read_jobs(write(tmp_path, HELIOS, "cluster_log.csv"))
    assert (first.name, first.accelerators, first.duration_s) == ("1425511", 1, 36848.0)
    assert (second.name, second.submitted_s, second.status) == ("1425512", 26.0, "FAILED")
    (job,) = read_jobs(write(tmp_path, PAI, "pai_task_table.csv"))
    assert (job.accelerators, job.duration_s, job.group) == (3, 140.0, "V100")
    plain = "submitted_s,accelerators,duration_s\n5,8,60\n1,1,2\n"
    assert [one.submitted_s for one in read_jobs(write(tmp_path, plain, "a.csv"))] == [0.0, 4.0]


def test_a_wrong_trace_is_refused_with_its_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "submitted_s,accelerators,duration_s\n5,-8,60\n1,x,2\n", "a.csv")
    with pytest.raises(InputError) as caught:
        read_jobs(path)
    assert [line.split(": ")[1] for line in caught.value.problems] == ["line 2", "line 3"]
    with pytest.raises(InputError, match="no job trace that is known"):
        read_jobs(write(tmp_path, "a,b\n1,2\n", "b.csv"))
    with pytest.raises(InputError, match="cannot be read"):
        read_jobs(tmp_path / "none.csv")


def test_a_fleet_is_played_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, HELIOS, "cluster_log.csv")
    text = 'policy = "easy"\n' + POOL + '[[trace]]\nfile = "cluster_log.csv"\nstart_s = 0\n'
    path = write(tmp_path, text.replace("start_s = 0", "start_s = 0.0"))
    out = {flag: str(tmp_path / f"out.{flag}") for flag in ("gantt", "trace", "series")}
    flags = [word for flag, file in out.items() for word in (f"--{flag}", file)]
    assert run(["cluster", str(path), "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "ridgeline.cluster"
    assert found["states"] == {"done": 2}
    assert found["span_s"] == 36848.0
    assert found["deadlines"] == 0
    assert Path(out["gantt"]).read_text().startswith("<svg")
    assert json.loads(Path(out["trace"]).read_text())["traceEvents"]
    assert run(["cluster", str(path), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert run(["cluster", str(path), "--seeds", "2"]) == 0
    assert "95% from" in capsys.readouterr().out


def test_all_mistakes_of_a_file_come_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = POOL.replace("nodes = 2", "nodes = 0") + (
        '[[arrivals]]\nname = "a"\nrate_per_h = -1.0\njobs = 2\naccelerators = [1]\nmean_h = 1.0\n'
        '[[job]]\nname = "j"\nacelerators = 8\n'
    )
    assert run(["cluster", str(write(tmp_path, text))]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "pool 'p'.nodes = 0: must be at least 1" in lines[0]
    assert "job 'j'.acelerators: unknown; did you mean 'accelerators'?" in lines[1]
    assert "arrivals 'a'.rate_per_h = -1.0: must be more than 0" in lines[2]


JOB = '[[job]]\nname = "a"\naccelerators = 8\nhours = 1.0\n'
FLOW = '[[arrivals]]\nname = "r"\nrate_per_h = 1.0\njobs = 5\naccelerators = [8]\nmean_h = 1.0\n'
SERVICE = "days = 1.0\n" + POOL + '[[service]]\nname = "s"\nreplica_accelerators = 8\n'
ASKED = 'traffic = [1.0]\nmodel = "llama3-8b"\ninput_len = 10\noutput_len = 10\nslo = "ttft=1s"\n'
MODEL = '[[job]]\nname = "a"\naccelerators = 8\nmodel = "gpt3-1.3b"\n'
TOO_LARGE = "accelerators, and pool 'p' has 16 beside spares; shrink it or name another pool"
BAD = {
    'policy = "fiffo"\n' + POOL + JOB: "policy 'fiffo': unknown; did you mean 'fifo'?",
    'policy = "os:nothing"\n' + POOL + JOB: "policy 'os:nothing': cannot be imported",
    'policy = "easy"\noptions = { depth = -5 }\n' + POOL + JOB: "depth = -5: must be 0 or more",
    'policy = "easy"\noptions = { depth = nan }\n' + POOL + JOB: "options.depth = nan: must be fin",
    'policy = "fair"\noptions = { half_life_days = 0 }\n' + POOL + JOB: "must be above 0",
    POOL + JOB.replace("8", "24"): f"job 'a': needs 24 {TOO_LARGE}",
    POOL + FLOW.replace("[8]", "[8, 24]"): f"arrivals 'r': needs 24 {TOO_LARGE}",
    SERVICE.replace("8", "24") + "traffic = [1.0]\nrequests_per_s = 1.0\n": (
        f"service 's': needs 24 {TOO_LARGE}"
    ),
    POOL + JOB + 'after = ["a"]\n': "job 'a': waits for itself: a -> a",
    POOL + JOB + 'after = ["b"]\n' + JOB.replace('"a"', '"b"') + 'after = ["a"]\n': (
        "job 'a': waits for itself: a -> b -> a"
    ),
    POOL + JOB + 'after = ["b"]\n': "after 'b': no such job",
    POOL + JOB + 'pools = ["q"]\n': "no pool 'q'; known: p",
    POOL + JOB + "pools = []\n": "job 'a'.pools: must have at least 1 entry",
    POOL + FLOW.replace("1.0", "-1.0", 1): "arrivals 'r'.rate_per_h = -1.0: must be more than 0",
    POOL + FLOW + "weights = [1, 2]\n": "weights: must be as many as accelerators",
    POOL + JOB.replace("1.0", "nan"): "job 'a'.hours = nan: must be finite",
    POOL + JOB.replace("1.0", "-1.0"): "job 'a'.hours = -1.0: must be more than 0",
    POOL + POOL + JOB: "pool 'p': named twice; names must differ",
    POOL + JOB + JOB: "job 'a': named twice; names must differ",
    POOL + JOB.replace("8", "0"): "job 'a'.accelerators = 0: must be at least 1",
    POOL.replace("nodes = 2", "nodes = 0") + JOB: "pool 'p'.nodes = 0: must be at least 1",
    POOL + JOB + "count = 1000000000\n": "count = 1000000000: must be at most 2000000",
    POOL
    + FLOW.replace("= 5", "= 1500000")
    + FLOW.replace('"r"', '"q"').replace(
        "= 5", "= 1500000"
    ): "3,000,000 jobs: must be at most 2,000,000; play a part of them",
    POOL + JOB.replace("accelerators = 8\n", ""): "give accelerators, or least and most of them",
    POOL + JOB.replace("accelerators = 8", "least = 16\nmost = 8"): "most at least least",
    POOL + JOB.replace("hours = 1.0\n", ""): "give hours (and accelerators), or a model",
    POOL + MODEL: "missing seq_len, global_batch_seqs, tokens, which a model needs",
    POOL + MODEL + "seq_len = 8\nglobal_batch_seqs = 8\ntokens = -1.0\n": (
        "job 'a': tokens = -1: must be above 0"
    ),
    POOL: "nothing to run",
    "": "pool: missing",
    "[[pool\n": "not TOML",
    "checkpoint = 3\n" + POOL + JOB: "checkpoint = 3: must be a table of keys",
    '[checkpoint]\nkind = "in-memory"\ndata = 8\n' + POOL + JOB: "erasure code 8+0",
    POOL.replace("h100-sxm", "h900") + JOB: "unknown name 'h900'; did you mean 'h800'?",
    POOL.replace('"none"', '"meta-lama3"') + JOB: "did you mean 'meta-llama3'?",
    POOL + "spares = 1.5\n" + JOB: "pool 'p'.spares = 1.5: must be at most 1",
    (SERVICE + "traffic = [1.0]\nrequests_per_s = 1.0\n").replace("days = 1.0\n", ""): (
        "say how long to play"
    ),
    SERVICE + "traffic = [1.0]\n": "missing model, input_len, output_len, slo",
    SERVICE + "requests_per_s = 1.0\n": "give traffic, a list by slots, or mean_requests_per_s",
    SERVICE + "requests_per_s = 1.0\nmean_requests_per_s = 1.0\nslot_h = 5.0\n": (
        "slot_h = 5.0: must divide the 24 hours"
    ),
    SERVICE + ASKED.replace("ttft=1s", "fast"): "service 's': slo fast: must be such as",
    SERVICE + ASKED.replace("llama3-8b", "llama3-7000b"): "not in the catalogue",
    SERVICE + ASKED + 'engine = "vlm"\n': "engine 'vlm': unknown; did you mean 'vllm'?",
    POOL + '[[trace]]\nfile = "none.csv"\n': "trace 'none.csv': none.csv: cannot be read",
}


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=range(len(BAD)))
def test_bad_fleets_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    said: str,
) -> None:
    write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    assert run(["cluster", "fleet.toml"]) == 2
    out = capsys.readouterr()
    (line,) = out.err.splitlines()
    assert line.startswith("error: fleet.toml: ")
    assert said in line
    assert not out.out


def test_a_replica_that_cannot_keep_its_promises_is_infeasible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SERVICE.replace("= 8", "= 1") + ASKED.replace("llama3-8b", "llama3-405b")
    assert run(["cluster", str(write(tmp_path, text))]) == 1
    assert "service 's': memory: no replica fits" in capsys.readouterr().err


def test_jobs_of_a_trace_may_come_in_any_order(tmp_path: Path) -> None:
    rows = "submitted_s,accelerators,duration_s\n50,8,60\n1,1,2\n20,16,5\n"
    write(tmp_path, rows, "jobs.csv")
    fleet = read_fleet(write(tmp_path, POOL + '[[trace]]\nfile = "jobs.csv"\n'))
    assert [job.submitted_s for job in fleet.jobs] == [0.0, 19.0, 49.0]


def test_an_interrupt_writes_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = '[[job]]\nname = "a"\ncount = 4\naccelerators = 16\nhours = 1.0\n'
    path = write(tmp_path, 'policy = "naive_fleet:Impatient"\n' + POOL + job)
    assert run(["cluster", str(path), "--json"]) == 130
    said = capsys.readouterr()
    assert json.loads(said.out)["complete"] is False
    assert "interrupted" in said.err


def test_a_service_follows_its_traffic(tmp_path: Path) -> None:
    service = (
        "days = 1.0\n" + POOL + '[[service]]\nname = "s"\nreplica_accelerators = 4\n'
        "requests_per_s = 10.0\ntraffic = [5.0, 25.0]\nslot_h = 12.0\nstart_s = 0.0\n"
    )
    from ridgeline.simulator.fleet.results import play_fleet

    played = play_fleet(read_fleet(write(tmp_path, service)))
    # one replica for half a day, three for the other half: 8 of 16 accelerators on average
    assert played.result.utilisation == pytest.approx(0.5)
    (served,) = played.result.services
    assert served.served_share == pytest.approx(1.0)
    assert served.asked == pytest.approx((5.0 + 25.0) * 12 * 3600)
    assert served.mean_replicas == pytest.approx(2.0)


def test_a_service_asks_the_serving_engine_what_a_replica_sustains(tmp_path: Path) -> None:
    from ridgeline.simulator.fleet.replicas import ReplicaAsk, replica_rate
    from ridgeline.simulator.fleet.results import play_fleet

    second = POOL.replace('"p"', '"q"').replace("h100-sxm", "a100-sxm-80gb")
    text = (
        "days = 2.0\n" + POOL + second + '[[service]]\nname = "s"\nreplica_accelerators = 1\n'
        'model = "llama3-8b"\ninput_len = 512\noutput_len = 128\nslo = "ttft=500ms,tpot=50ms"\n'
        "mean_requests_per_s = 150.0\nswing = 0.8\npeak_h = 18.0\nstart_s = 0.0\n"
    )
    fleet = read_fleet(write(tmp_path, text))
    (service,) = fleet.services
    ask = ReplicaAsk(
        model="llama3-8b", accelerator="h100-sxm", accelerators=1, input_len=512, output_len=128,
        slo="ttft=500ms,tpot=50ms",
    )  # fmt: skip
    rate = replica_rate(ask).requests_per_s
    rates = service.replica.rates
    assert rates["p"].per_s == (rate,)
    assert replica_rate(ask) is replica_rate(ask)
    # two to three times the bandwidth and FLOP/s of an A100
    assert 1.5 < rate / rates["q"].per_s[0] < 4.0
    # a shorter promise leaves less
    assert replica_rate(replace(ask, slo="ttft=100ms,tpot=15ms")).requests_per_s < rate
    # the day: mean 150, least 30 at 6 h, most 270 at 18 h, as means over an hour
    assert sum(service.traffic) / 24 == pytest.approx(150.0)
    assert max(service.traffic) == pytest.approx(270.0, rel=0.01)
    assert service.traffic.index(max(service.traffic)) in (17, 18)
    played = play_fleet(fleet)
    (served,) = played.result.services
    assert served.served_share == pytest.approx(1.0)
    assert served.replica_plans["p"] == "vllm: 1 x tp 1, pp 1, dp 1, ep 1"
    running = [sample.running for sample in played.samples]
    assert max(running) >= 270.0 / rate
    assert served.mean_replicas == pytest.approx(150.0 / rate, rel=0.2)
    assert max(running) > 4 * min(running[1:])
    # stated, it is not asked
    stated = read_fleet(write(tmp_path, text + "requests_per_s = 10.0\n")).services[0]
    assert stated.replica.rates["q"].per_s == (10.0,)


def test_a_failed_or_slow_replica_serves_less_and_headroom_makes_up_for_it(tmp_path: Path) -> None:
    from ridgeline.simulator.fleet.results import play_fleet

    text = (
        "days = 60.0\n" + POOL.replace("nodes = 2", "nodes = 20")
        + "failures_per_1000_node_days = 500\nrepair_h = 1.0\n"
        '[[service]]\nname = "s"\nreplica_accelerators = 8\nrequests_per_s = 10.0\n'
        "traffic = [80.0]\nstart_s = 600.0\n"
    )  # fmt: skip
    bare = play_fleet(read_fleet(write(tmp_path, text))).result.services[0]
    kept = play_fleet(read_fleet(write(tmp_path, text + "headroom = 0.2\n"))).result.services[0]
    assert 0.98 < bare.served_share < kept.served_share
    # 8 replicas, half a failure a day each, some 25 minutes from failure to service: 0.9% is lost
    assert 1.0 - bare.served_share == pytest.approx(0.5 / 86400 * (300 + 600 + 600), rel=0.4)


def test_a_model_goes_as_fast_as_its_best_plan(tmp_path: Path) -> None:
    job = (
        '[[job]]\nname = "tune"\nmodel = "gpt3-1.3b"\nseq_len = 2048\nglobal_batch_seqs = 64\n'
        'tokens = "1B"\nleast = 8\nmost = 16\n'
    )
    fleet = read_fleet(write(tmp_path, POOL + job))
    rates = fleet.jobs[0].rates["p"]
    assert rates.counts == (8, 16)
    assert rates.per_s[0] < rates.per_s[1] < 2.2 * rates.per_s[0]
    assert fleet.jobs[0].work == 1e9
    assert rates.checkpoint_bytes > 14e9


def test_the_example_is_played(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cluster", str(ROOT / "examples/fleet_small.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["uses"].values()) == pytest.approx(1.0)
    (chat,) = found["services"]
    assert chat["served"] > 0.95 * chat["asked"]


def test_every_key_of_the_answer_is_documented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs/json.md").read_text(encoding="utf-8")
    part = text.partition("## `ridgeline cluster --json`")[2].partition("\n## ")[0]
    traffic = "requests_per_s = 1.0\ntraffic = [1.0]\n"
    path = write(tmp_path, SERVICE.replace("= 8", "= 1") + traffic + FLOW)
    for flags in ([], ["--seeds", "2"]):
        assert run(["cluster", str(path), "--json", "--what-if", "spares=0", *flags]) == 0
        assert not _unknown(json.loads(capsys.readouterr().out), part)


def _unknown(value: object, text: str) -> set[str]:
    """Return keys that a text does not name; those of tables by pool or figure are none."""
    if isinstance(value, list):
        return set().union(*(_unknown(one, text) for one in value[:1]))
    if not isinstance(value, dict):
        return set()
    found = {key for key in value if f"`{key}`" not in text and key not in ("p", "done")}
    return found.union(*(_unknown(one, text) for one in value.values()))
