"""Measuring a machine: samples, fits, files, the command. Training is in test_profile_loop."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from ridgeline.cli import run
from ridgeline.errors import InfeasibleError, InputError
from ridgeline.hardware.profiles import load_accelerator
from ridgeline.simulator.roofline import layout
from ridgeline.simulator.roofline.device import device_parameters, price_operators
from ridgeline.simulator.stacks import load_stack
from ridgeline.validation.profiling import cases as c
from ridgeline.validation.profiling.samples import FEWEST, Samples, read_samples

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs PyTorch (extra profile)"
)
MACHINE = {"model": "made up", "processes": 2}
FLOPS = {"fp32": 6e10, "bf16": 2e11}


def cases() -> list[c.Case]:
    found = c.device_cases(("fp32", "bf16"), FLOPS, 0.04, graphs=False)
    return found + c.collective_cases(2, 0.04, graphs=False)


def a_second(case: c.Case) -> float:
    """A machine with 60 and 180 GFLOP/s, 20 GB/s, links of 2 GB/s."""
    count = float(np.prod(case.dims))
    if case.flops:
        return 5e-6 + case.flops / ((60e9 if case.dtype == "fp32" else 180e9) * 0.9)
    if case.kind in c.COLLECTIVES:
        return 2e-4 + (1.0 if case.kind == "all_reduce" else 0.5) * count / 2e9
    if case.kind == c.COPY:
        return 2.0 * count / 20e9
    if case.kind in (c.LAUNCH, c.GRAPH_LAUNCH):
        return 2e-6
    if case.kind in (c.LOSS, c.OPTIMIZER):
        return 28.0 * count / 10e9
    return 3e-6 + 8.0 * count / 5e9


def synthetic(noise: float = 0.02) -> Samples:
    rng = np.random.default_rng(0)
    samples = Samples(dict(MACHINE))
    for case in cases():
        for _ in range(8):
            samples.add(case.key, a_second(case) * float(np.exp(noise * rng.standard_normal())))
    return samples


def test_a_key_names_its_case() -> None:
    for case in cases():
        assert c.case_of(case.key) == case
    assert len({case.key for case in cases()}) == len(cases())


def test_a_grid_has_no_case_that_takes_longer_than_allowed() -> None:
    for most_s in (0.01, 0.1):
        for case in c.device_cases(("fp32",), FLOPS, most_s, graphs=False):
            assert case.flops <= most_s * FLOPS["fp32"]


def test_samples_survive_an_interruption_and_refuse_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "x.samples.json"
    samples = synthetic()
    samples.save(path)
    again = read_samples(path, dict(MACHINE))
    assert again.seconds == samples.seconds
    with pytest.raises(InputError, match="processes"):
        read_samples(path, {**MACHINE, "processes": 4})
    path.write_text("{}")
    with pytest.raises(InputError, match="no file of samples"):
        read_samples(path, dict(MACHINE))


def test_spread_is_half_the_quartiles_distance() -> None:
    samples = Samples({}, {"x": [1.0, 2.0, 3.0, 4.0, 5.0], "few": [1.0] * (FEWEST - 1)})
    assert samples.spread("x") == pytest.approx(0.5 * (4.0 - 2.0) / 3.0)
    assert not samples.steady("few")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ridgeline.validation.profiling.fitting import Fitter
    from ridgeline.validation.profiling.machine import Machine
    from ridgeline.validation.profiling.writing import Origin, profile_text, stack_text

    samples = synthetic()
    fitted = Fitter(samples, cases(), cores=1, side=16).fit()
    machine = Machine(
        device="cpu",
        model="Made Up",
        vendor="Nobody",
        family="cpu",
        cores=1,
        vector=16,
        cache_bytes=2.0**25,
        cache_read=True,
        memory_bytes=2.0**34,
    )
    origin = Origin(
        name="made-up",
        date="2026-01-01",
        torch="2",
        threads=1,
        processes=2,
        rounds=8,
        dtype="fp32",
        watts=(0.0, 0.0, 0.0),
    )
    path = tmp_path_factory.mktemp("profile") / "made-up.toml"
    path.write_text(profile_text(machine, fitted, origin))
    path.with_suffix(".stack.toml").write_text(stack_text(machine, fitted, origin))
    return path


@needs_torch
class TestFit:
    """A made-up machine that follows the laws is found again."""

    def test_matrix_products_come_out_as_sampled(self, files: Path) -> None:
        accelerator = load_accelerator(str(files))
        dims = np.zeros((2, layout.DIMS), np.int64)
        dims[:, :4] = [(512, 512, 512, 1), (128, 1024, 1024, 1)]  # not in the grid
        extra = np.array([[0.0, 1.0, 1.0]] * 2)
        kind, dtype = np.full(2, layout.GEMM, np.int8), np.full(2, layout.FP32, np.int8)
        seconds = price_operators(kind, dtype, dims, extra, device_parameters(accelerator))
        expected = [5e-6 + 2.0 * float(m * n * k) / 54e9 for m, n, k in dims[:, :3]]
        np.testing.assert_allclose(seconds, expected, rtol=0.05)
        assert accelerator.efficiency.rung == "fitted"
        assert accelerator.memory_bytes_per_s == pytest.approx(20e9, rel=0.02)

    def test_collectives_come_out_as_sampled(self, files: Path) -> None:
        accelerator = load_accelerator(str(files))
        fit = accelerator.efficiency.collectives["all_reduce"]
        assert fit.base_s == pytest.approx(2e-4, rel=0.1)
        reached = fit.bandwidth * accelerator.scaleup_bytes_per_s
        assert reached == pytest.approx(2e9, rel=0.1)

    def test_what_was_assumed_says_so(self, files: Path) -> None:
        accelerator = load_accelerator(str(files))
        assert "tdp_w" in accelerator.unconfirmed
        assert "memory_bytes_per_s" not in accelerator.unconfirmed

    def test_the_stack_beside_it_is_one(self, files: Path) -> None:
        stack = load_stack(str(files.with_suffix(".stack.toml")))
        assert stack.optimizer_bytes == pytest.approx(28.0, rel=0.05)
        assert not stack.gradient_overlap

    def test_train_takes_both_by_path(
        self, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = [
            "train",
            "--model",
            "bloom-560m",
            "--cluster",
            f"2x{files}",
            "--global-batch",
            "2",
        ]
        command += ["--stack", str(files.with_suffix(".stack.toml")), "--seq-len", "512"]
        assert run([*command, "--precision", "fp32", "--micro-batch", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["step_time_s"] > 0

    def test_a_wide_spread_is_not_published(self) -> None:
        from ridgeline.validation.profiling.fitting import Fitter

        samples = synthetic()
        wild = [case.key for case in cases() if case.kind in (c.GEMM, c.GEMM_BACKWARD)]
        for key in wild:
            samples.seconds[key] = [x * (1 + place) for place, x in enumerate(samples.seconds[key])]
        with pytest.raises(InfeasibleError, match=r"gemm fp32: 0 of .* spread at most 20%"):
            Fitter(samples, cases(), cores=1, side=16).fit()
        one = synthetic()
        one.seconds[wild[0]] = samples.seconds[wild[0]]
        fitted = Fitter(one, cases(), cores=1, side=16).fit()
        assert [line.startswith(wild[0]) for line in fitted.refused] == [True]


class TestCommand:
    """The command line."""

    @pytest.mark.parametrize(
        ("flags", "complaint"),
        [
            (["--minutes", "0"], "--minutes"),
            (["--threads", "0"], "--threads"),
            (["--dtype", "fp7"], "--dtype"),
            (["--trace", "x"], "goes with --train"),
        ],
    )
    def test_bad_input_is_one_line(
        self, flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["profile", *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert complaint in line

    @needs_torch
    @pytest.mark.parametrize("size", ["tini", "2x130x4x100x16x1", "1x2x3"])
    def test_a_size_is_checked(self, size: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["profile", "--device", "cpu", "--train", size]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--train" in line

    @pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is here")
    def test_without_pytorch_it_says_what_to_install(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(["profile"]) == 2
        assert "ridgeline[profile]" in capsys.readouterr().err
