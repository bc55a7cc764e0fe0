"""Rungs of training's kernels: measured tables on top, and who priced what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from plans import make_plan
from ridgeline.cli import app
from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters, price_operators
from ridgeline.simulator.roofline.gemm import price_shapes
from ridgeline.simulator.roofline.rungs import LADDER, Kernels, price_by_rungs
from ridgeline.simulator.rung_shares import rung_shares
from ridgeline.simulator.stacks import load_stack
from ridgeline.simulator.step import Step, simulate_step
from ridgeline.simulator.training import simulate_training
from ridgeline.validation.kernels import MeasuredGemm, read_kernel_table, read_measured_gemm

H100 = load_accelerator("h100-sxm")
HEAD = "m,n,k,dtype,latency_us,backend,version,kernel"
DATA = Path(__file__).parents[2] / "shared" / "data"
measured_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the measured kernel tables are not shipped"
)


class Burst:
    """The model's own burst prices, times ``factor``, of shapes up to ``most`` rows."""

    def __init__(self, factor: float, most: int = 1 << 40) -> None:
        self.factor, self.most = factor, most

    def gemm_seconds(self, m, n, k, dtype):
        table = device_parameters(H100, sustained=False).copy()
        seconds = self.factor * price_shapes(table, dtype, m, n, k)
        return np.where(m <= self.most, seconds, np.nan)


def played(kernels: Kernels | None = None, **settings) -> Step:
    settings = {"tp": 2, "sp": True, "precision": "bf16"} | settings
    plan = make_plan(**settings)
    return simulate_step(plan, load_stack(plan.stack), kernels=kernels)


def gemms(step: Step):
    return step.costs.table.kind == layout.GEMM


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp8"])
def test_a_table_of_the_models_own_prices_changes_nothing_and_twice_them_doubles(precision):
    model = played(precision=precision)
    same = played(Kernels(measured=Burst(1.0)), precision=precision)
    twice = played(Kernels(measured=Burst(2.0)), precision=precision)
    rows = gemms(model)
    np.testing.assert_allclose(same.costs.alone, model.costs.alone, rtol=1e-12)
    np.testing.assert_allclose(twice.costs.alone[rows], 2 * model.costs.alone[rows], rtol=1e-12)
    np.testing.assert_array_equal(twice.costs.alone[~rows], model.costs.alone[~rows])
    assert twice.seconds > 1.3 * model.seconds


def test_a_measured_kernel_slows_down_under_long_load():
    # H100 bf16 sustains 0.87 of its burst (profile): a long GEMM is that much over the table's
    step = played(Kernels(measured=Burst(1.0)), micro_batch_seqs=8)
    rows = gemms(step) & (step.costs.table.extra[:, layout.BYTES_MOVED] == 0.0)
    m, n, k = step.costs.table.dims[rows, :3].T
    ratio = step.costs.alone[rows] / Burst(1.0).gemm_seconds(m, n, k, "bfloat16")
    assert (ratio >= 1.0).all()
    assert ratio.max() == pytest.approx(1 / 0.87, rel=0.05)


def test_accumulation_is_paid_on_top_of_a_table():
    step = played(Kernels(measured=Burst(1.0)))
    names = step.costs.table.names
    wgrad = np.array(["wgrad" in name for name in names]) & gemms(step)
    assert (step.costs.table.extra[wgrad, layout.BYTES_MOVED] > 0.0).all()
    m, n, k = step.costs.table.dims[wgrad, :3].T
    assert (step.costs.alone[wgrad] > Burst(1.0).gemm_seconds(m, n, k, "bfloat16")).all()


def test_batched_products_are_not_looked_up_as_single_ones():
    operators = (
        np.full(2, layout.GEMM, np.int8),
        np.full(2, layout.BF16, np.int8),
        np.array([[512, 512, 128, batch, 0, 0, 0, 0, 0] for batch in (1, 8)]),
        np.array([[0.0, 1.0, 1.0]] * 2),
    )
    _, rungs = price_by_rungs(operators, H100, H100, Kernels(measured=Burst(1.0)))
    assert [LADDER[rung] for rung in rungs] == ["table", "fitted"]


def test_shares_add_up_and_name_the_rungs():
    assert rung_shares(played()) == {"fitted": pytest.approx(1.0)}
    assert rung_shares(played(Kernels(rung="universal"))) == {"universal": pytest.approx(1.0)}
    mixed = rung_shares(played(Kernels(rung="corrected", measured=Burst(1.0, most=4096))))
    assert list(mixed) == [name for name in LADDER if name in mixed]
    assert {"table", "corrected", "fitted"} == mixed.keys()
    assert sum(mixed.values()) == pytest.approx(1.0)


def test_slower_rungs_make_slower_steps():
    twice = played(Kernels(measured=Burst(2.0)))
    part = played(Kernels(measured=Burst(2.0, most=4096)))
    assert played().seconds < part.seconds < twice.seconds
    corrected = played(Kernels(rung="corrected"))
    rows = gemms(corrected)
    table = device_parameters(H100, rung="corrected")
    t = corrected.costs.table
    prices = price_operators(t.kind[rows], t.dtype[rows], t.dims[rows], t.extra[rows], table)
    np.testing.assert_array_equal(corrected.costs.alone[rows], prices)


def test_the_result_says_what_was_priced_by_what():
    plan = make_plan(tp=2)
    assert all("by rung" not in note.text for note in simulate_training(plan).provenance)
    result = simulate_training(plan, kernels=Kernels(measured=Burst(1.0)))
    [line] = [note for note in result.provenance if "by rung" in note.text]
    assert line.kind == "kernels"
    assert "% table, " in line.text
    assert "% fitted" in line.text
    with pytest.raises(InputError, match="rung 'fited' is not known; did you mean 'fitted'"):
        simulate_training(plan, kernels=Kernels(rung="fited"))


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join([HEAD, *rows, ""]), encoding="utf-8")
    return path


def test_the_newest_version_and_the_slowest_library_count(tmp_path):
    path = write(
        tmp_path / "gemm.csv",
        [
            "4096,4096,4096,bfloat16,290,one,0.9,cublas",
            "4096,4096,4096,bfloat16,240,one,0.10,cublas",
            "4096,4096,4096,bfloat16,250,two,1.0,cublas",
            "8192,4096,4096,bfloat16,480,two,1.0,cublas",
        ],
    )
    one = read_measured_gemm([path], H100)
    sizes = np.array([4096, 8192, 5793, 16384])
    rest = np.full(4, 4096)
    seconds = one.gemm_seconds(sizes, rest, rest, "bfloat16")
    # half way in log m between 250 and 480 us; nothing past the last
    np.testing.assert_allclose(
        seconds, [250e-6, 480e-6, np.sqrt(250 * 480) * 1e-6, np.nan], rtol=1e-4
    )
    assert np.isnan(one.gemm_seconds(sizes, rest, rest, "fp8")).all()


def test_tables_without_gemm_are_refused(tmp_path):
    path = tmp_path / "nccl.csv"
    path.write_text(
        "op,num_gpus,bytes,dtype,latency_us,backend,version,kernel\n"
        "all_reduce,8,1048576,half,60,nccl,2.27,ring\n"
    )
    with pytest.raises(InputError, match="no GEMM in them"):
        MeasuredGemm([read_kernel_table(path)])


def test_the_command_takes_tables_and_rungs(tmp_path):
    question = ["train", "--model", "llama2-7b", "--cluster", "8xh100-sxm", "--zero-stage", "1"]
    question += ["--tp", "2", "--seq-len", "4096", "--global-batch", "8", "--json"]
    step = played(tp=2)
    table = step.costs.table
    rows = gemms(step) & (table.dims[:, 3] == 1)
    shapes = np.unique(table.dims[rows, :3], axis=0)
    model = Burst(2.0).gemm_seconds(*shapes.T, "bfloat16") * 1e6
    path = write(
        tmp_path / "mine.csv",
        [
            f"{m},{n},{k},bfloat16,{us!r},torch,2.10,cublas"
            for (m, n, k), us in zip(shapes.tolist(), model.tolist(), strict=True)
        ],
    )
    run = CliRunner()
    plain = json.loads(run.invoke(app, question).stdout)
    twice = json.loads(run.invoke(app, [*question, "--kernel-tables", str(path)]).stdout)
    assert twice["step_time_s"] > 1.5 * plain["step_time_s"]
    assert any("% table" in note["text"] for note in twice["provenance"])
    universal = json.loads(run.invoke(app, [*question, "--rung", "universal"]).stdout)
    assert any("100% universal" in note["text"] for note in universal["provenance"])


@measured_data
def test_a_measured_device_prices_its_shapes_from_its_table():
    kernels = read_measured_gemm([DATA / "kernels" / "gemm_h100_sxm.csv.gz"], H100)
    sizes = np.array([1024])
    seconds = kernels.gemm_seconds(sizes, np.array([4096]), np.array([4096]), "bfloat16")
    # 34 GFLOP at 500 to 800 TFLOP/s
    assert 40e-6 < seconds[0] < 80e-6
