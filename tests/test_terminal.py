"""What a person sees in a terminal: tables that fit, silence on demand, names that complete."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ridgeline.cli import COMMANDS, COMPLETE, output, run
from ridgeline.cli.completion import SHELLS, complete_accelerator, complete_cluster, complete_model

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SMALL = str(EXAMPLES / "llama3_8b_8xh100.toml")
JOB = "--model llama3-8b --seq-len 8192 --global-batch 16 --tokens 20B"
PAGES = (
    f"train {SMALL} --explain",
    f"train {SMALL} --calendar --runs 20",
    f"train {EXAMPLES}/llama3_405b_16k_h100.toml",
    f"infer {EXAMPLES}/serve_llama3_70b.toml",
    f"plan --jobs 1 --on 8xh100-sxm --objective cost {JOB}",
    f"plan {EXAMPLES}/serve_choice.toml --serve --on h100 --max-accelerators 2 --mode aggregated",
    f"cluster {EXAMPLES}/fleet_small.toml --days 3",
    f"cluster {EXAMPLES}/fleet_small.toml --seeds 2 --days 3",
    "hardware list",
    "hardware show h100-sxm",
    "models list",
    "models show deepseek-v3",
    "stacks list",
    "stacks show megatron-core",
)
SLOW_PAGES = (
    f"infer {EXAMPLES}/serve_chat_day.toml",
    "plan --budget 1e5 --deadline 30d --on 64xh100-sxm",
    f"compare --on h100-sxm,a100,mi300x --count 8 {JOB}",
    "validate",
)


def fits(line: str, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == 0
    page = capsys.readouterr().out
    assert page
    assert max(map(len, page.splitlines())) <= width
    # A cut cell would fit as well, and say nothing.
    assert "…" not in page


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("line", PAGES, ids=lambda line: line.replace(f"{EXAMPLES}/", ""))
def test_pages_fit_the_window(
    line: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    fits(line, width, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("line", SLOW_PAGES)
def test_long_pages_fit_the_window(
    line: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    fits(line, width, capsys)


def test_help_fits_the_window(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        assert run([name, "--help"]) == 0
        page = capsys.readouterr().out
        assert max(map(len, page.splitlines())) <= 80, name


def test_a_plan_file_that_is_written_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["train llama3-8b on h100 in 30 days under 2M dollars"]
    lines += ["serve llama3-8b on 2 h100 at 5 rps, ttft 500ms, tpot 50ms"]
    for line in lines:
        assert run(["init", line]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def on_a_terminal(*arguments: str, **environment: str) -> tuple[str, str]:
    """Return what a command writes to a terminal: standard output, and standard error."""
    out, out_end = pty.openpty()
    err, err_end = pty.openpty()
    code = "from ridgeline.cli import main; main()"
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=out_end,
        stderr=err_end,
        env=env | {"TERM": "xterm-256color"} | environment,
        cwd=ROOT,
    ) as process:
        os.close(out_end)
        os.close(err_end)
        texts = [_all_of(out), _all_of(err)]
        assert process.wait() == 0
    return texts[0], texts[1]


def _all_of(end: int) -> str:
    """Return what comes out of a pseudo-terminal until its other end is closed."""
    parts = []
    while True:
        try:
            part = os.read(end, 65536)
        except OSError:  # Linux says so when nobody holds the other end
            part = b""
        if not part:
            os.close(end)
            return b"".join(parts).decode()
        parts.append(part)


def test_colours_are_for_terminals_that_want_them() -> None:
    show = ("stacks", "show", "megatron-core")
    assert "\x1b[" in on_a_terminal(*show)[0]
    plain = on_a_terminal(*show, NO_COLOR="1")[0]
    # Bold and dim are no colours; 30 to 49 and 90 to 107 set one.
    codes = {int(n) for part in plain.split("\x1b[")[1:] for n in part.split("m")[0].split(";")}
    assert codes <= {0, 1, 2}


def test_quiet_says_nothing_beside_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.json"
    asked = ["train", SMALL, "--trace", str(trace), "--granularity", "stage"]
    assert run(asked) == 0
    told = capsys.readouterr()
    assert "wrote" in told.err
    for quiet in (["--quiet", *asked], [*asked, "--quiet"]):
        assert run(quiet) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        assert captured.out == told.out
    assert run(["train", SMALL, "--tp", "0", "--quiet"]) == 2
    assert "--tp 0" in capsys.readouterr().err


def test_quiet_shows_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert output.watched()
    plan = ("plan", "--on", "8xh100-sxm", "--tp", "1", "--cp", "1", *JOB.split())
    assert "plans" in on_a_terminal(*plan)[1]
    assert on_a_terminal(*plan, "--quiet")[1] == ""


def test_silence_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    from ridgeline.cli import numba_start

    seen: list[str] = []

    class Terminal:
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            seen.append(text)
            return len(text)

        def flush(self) -> None:
            return

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(numba_start, "SILENCE_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    with numba_start.said_while_compiling():
        deadline = time.monotonic() + 10
        while not any("working" in text for text in seen) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert any("working" in text for text in seen)


def completed(line: str) -> set[str]:
    """Return what bash would be offered behind ``line``."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", "from ridgeline.cli import main; main()"],
        env=os.environ
        | {COMPLETE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {each.partition(",")[2] for each in done.stdout.splitlines()}


def test_commands_flags_and_names_complete() -> None:
    assert completed("ridgeline tr") == {"train"}
    assert completed("ridgeline train --gl") == {"--global-batch"}
    assert completed("ridgeline train --model llama3-") == {"llama3-70b", "llama3-8b"}
    assert "h100-sxm" in completed("ridgeline hardware show h1")
    assert completed("ridgeline train --stack megatron-c") == {"megatron-core"}
    assert "sglang" in completed("ridgeline infer --engine sg")


def test_the_last_of_a_list_completes() -> None:
    context, parameter = None, None
    offered = complete_accelerator(context, parameter, "512xh100-sxm,b200")  # type: ignore[arg-type]
    assert offered == ["512xh100-sxm,b200-sxm"]
    assert complete_cluster(context, parameter, "2x8xh200-s") == ["2x8xh200-sxm"]  # type: ignore[arg-type]
    assert complete_cluster(context, parameter, "dgx-h1") == ["dgx-h100"]  # type: ignore[arg-type]
    assert complete_model(context, parameter, "GPT3-1.") == ["gpt3-1.3b"]  # type: ignore[arg-type]


def test_completion_does_not_pay_for_the_compiler() -> None:
    code = (
        "import sys\n"
        "from ridgeline.cli.completion import complete_cluster, complete_model, complete_stack\n"
        "for complete in (complete_cluster, complete_model, complete_stack):\n"
        "    assert complete(None, None, '')\n"
        "assert not {'numba', 'pandas', 'pydantic', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert COMPLETE in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
    assert run(["completion", "tcsh"]) == 2
