"""``ridgeline cluster``: files in, answers out, and everything wrong said at once."""

from __future__ import annotations

import json
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('policy = "fiffo"\n' + POOL + '[[job]]\nname = "a"\naccelerators = 8\nhours = 1.0\n',
         "did you mean 'fifo'?"),
        (POOL + '[[job]]\nname = "a"\naccelerators = 24\nhours = 1.0\n', "needs 24 accelerators"),
        (POOL + '[[job]]\nname = "a"\naccelerators = 8\nhours = 1.0\nafter = ["a"]\n',
         "waits for itself: a -> a"),
        (POOL + '[[job]]\nname = "a"\naccelerators = 8\nhours = 1.0\nafter = ["b"]\n',
         "no such job"),
        (POOL + '[[job]]\nname = "a"\naccelerators = 8\nhours = 1.0\npools = ["q"]\n',
         "no pool 'q'"),
        (POOL + '[[job]]\nname = "a"\naccelerators = 8\n', "give hours"),
        (POOL, "nothing to run"),
        (POOL.replace("h100-sxm", "h900") + '[[job]]\nname = "a"\naccelerators = 8\nhours = 1.0\n',
         "h900"),
        (POOL + '[[service]]\nname = "s"\nreplica_accelerators = 8\nrequests_per_s = 1.0\n'
         "traffic = [1.0]\n", "say how long to play"),
    ],
)  # fmt: skip
def test_bad_fleets_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    assert run(["cluster", str(write(tmp_path, text))]) == 2
    assert said in capsys.readouterr().err


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
