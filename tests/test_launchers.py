"""Settings of other programs: read as plans, written from plans, and there and back."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.cli import run
from ridgeline.errors import InputError
from ridgeline.simulator import Plan, read_plan
from ridgeline.simulator.launchers.convert import READERS, WRITERS, read_launcher, tables_text
from ridgeline.simulator.launchers.megatron import arguments
from ridgeline.simulator.launchers.models import named_model

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MEGATRON = """#!/bin/bash
# Llama 2 70B
GPUS_PER_NODE=8
NNODES=16
TP=8
MODEL_ARGS=(
    --num-layers 80 --hidden-size 8192 --ffn-hidden-size 28672
    --num-attention-heads 64 --group-query-attention --num-query-groups 8
    --swiglu --untie-embeddings-and-output-weights --vocab-size 32000
)
torchrun --nproc_per_node $GPUS_PER_NODE --nnodes ${NNODES} pretrain_gpt.py \\
    --tensor-model-parallel-size $TP --pipeline-model-parallel-size 4 \\
    --num-layers-per-virtual-pipeline-stage 5 --sequence-parallel \\
    --use-distributed-optimizer --seq-length 4096 --micro-batch-size 1 \\
    --global-batch-size 512 --train-iters 1000 --bf16 --lr 1.5e-4 \\
    --recompute-granularity selective
"""
TITAN = """
[model]
name = "llama3"
flavor = "8B"
[optimizer]
name = "AdamW"
lr = 3e-4
[training]
local_batch_size = 2
seq_len = 8192
steps = 1000
[parallelism]
data_parallel_replicate_degree = 1
data_parallel_shard_degree = -1
tensor_parallel_degree = 2
[activation_checkpoint]
mode = "selective"
selective_ac_option = "op"
[float8]
enable_float8_linear = true
"""
MAXTEXT = """
model_name: llama2-70b
max_target_length: 4096
per_device_batch_size: 4
ici_fsdp_parallelism: -1
ici_tensor_parallelism: 1
dcn_data_parallelism: 2
remat_policy: full
steps: 20
dataset_type: synthetic
"""
NEMO = """
trainer: {num_nodes: 16, devices: 8, precision: bf16, max_steps: 100}
model:
  encoder_seq_length: 2048
  micro_batch_size: 1
  global_batch_size: 256
  tensor_model_parallel_size: 8
  pipeline_model_parallel_size: 8
  virtual_pipeline_model_parallel_size: 6
  sequence_parallel: true
  num_layers: 96
  hidden_size: 12288
  num_attention_heads: 96
  activation: gelu
  fp8: false
  optim: {name: distributed_fused_adam, lr: 1.0e-4}
"""
VLLM = (
    "vllm serve meta-llama/Llama-3.1-70B-Instruct -tp 4 --max-num-seqs 128 "
    "--kv-cache-dtype fp8 --quantization fp8 --enable-prefix-caching --port 8000"
)


def test_megatron_arguments() -> None:
    found = read_launcher("megatron", MEGATRON)
    assert found.tables["parallel"] == {"tp": 8, "pp": 4, "sp": True, "zero_stage": 1, "vpp": 4}
    assert found.tables["model"] == {"name": "llama2-70b"}
    assert found.tables["cluster"] == {"count": 128, "accel_per_node": 8}
    assert found.tables["training"]["tokens"] == 1000 * 512 * 4096
    assert found.tables["training"]["recompute"] == "selective"
    assert found.unmapped == ("--lr 1.5e-4",)


def test_megatron_model_that_the_catalogue_lacks_gets_a_configuration() -> None:
    text = MEGATRON.replace("--num-layers 80", "--num-layers 40")
    config = read_launcher("megatron", text).model_config
    assert config is not None
    assert (config["model_type"], config["num_hidden_layers"]) == ("llama", 40)


def test_torchtitan_derives_sharding_and_batch_from_the_cluster() -> None:
    found = read_launcher("torchtitan", TITAN, 64)
    assert found.tables["parallel"] == {"tp": 2, "dp": 32, "zero_stage": 3}
    assert found.tables["training"]["global_batch_seqs"] == 64
    assert found.tables["training"]["precision"] == "fp8"
    assert found.tables["training"]["recompute"] == "selective"
    assert found.tables["model"]["name"] == "llama3-8b"
    assert found.unmapped == ("optimizer.lr = 0.0003",)


def test_maxtext_takes_what_its_axes_leave() -> None:
    found = read_launcher("maxtext", MAXTEXT, 256)
    assert found.tables["parallel"] == {"zero_stage": 3, "shard_size": 128}
    assert found.tables["training"]["global_batch_seqs"] == 1024
    assert found.tables["training"]["micro_batch_seqs"] == 4
    assert found.unmapped == ("dataset_type = synthetic",)


def test_maxtext_pairs_say_the_same_as_its_yaml() -> None:
    pairs = " ".join(line.replace(": ", "=") for line in MAXTEXT.strip().splitlines())
    assert read_launcher("maxtext", pairs, 256) == read_launcher("maxtext", MAXTEXT, 256)


def test_nemo_configuration() -> None:
    found = read_launcher("nemo", NEMO)
    assert found.tables["model"] == {"name": "gpt3-175b"}
    assert found.tables["parallel"]["vpp"] == 6
    assert found.tables["parallel"]["zero_stage"] == 1
    assert found.tables["training"]["tokens"] == 100 * 256 * 2048
    assert found.unmapped == ("model.optim.lr = 0.0001",)


def test_vllm_command_line() -> None:
    found = read_launcher("vllm", VLLM)
    assert found.tables["model"] == {"name": "llama3.1-70b"}
    assert found.tables["serving"] == {
        "engine": "vllm",
        "max_sequences": 128,
        "kv_precision": "fp8",
        "precision": "fp8",
        "prefix_caching": True,
    }
    assert found.unmapped == ("--port 8000",)


def plan_of(text: str, program: str, cluster: str, tmp_path: Path) -> Plan:
    found = read_launcher(program, text, 128)
    found.tables["cluster"] = {"spec": cluster}
    path = tmp_path / "plan.toml"
    path.write_text(tables_text(found.tables, found.unmapped, "a test"), encoding="utf-8")
    return read_plan(path)


@pytest.mark.parametrize(
    ("program", "text"),
    [("megatron", MEGATRON), ("nemo", NEMO), ("torchtitan", TITAN), ("maxtext", MAXTEXT)],
)
def test_there_and_back(program: str, text: str, tmp_path: Path) -> None:
    """What is read, written and read again is the same plan."""
    cluster = "tpu-v5p:4x4x8" if program == "maxtext" else "16x8xh100-sxm"
    plan = plan_of(text, program, cluster, tmp_path)
    written = WRITERS[program](plan)
    assert plan_of(written.text, program, cluster, tmp_path) == plan
    assert written.unmapped == ()


@pytest.mark.parametrize(
    ("program", "text", "says"),
    [
        ("megatron", MEGATRON, "--fp4-format e2m1"),
        ("maxtext", MAXTEXT, "quantization=te_nvfp4"),
        ("nemo", NEMO, ""),
        ("torchtitan", TITAN, ""),
    ],
)
def test_four_bits_are_said_or_listed(program: str, text: str, says: str, tmp_path: Path) -> None:
    plan = plan_of(text, program, "32x4xgb200", tmp_path)
    plan = replace(plan, training=replace(plan.training, precision="fp4"))
    written = WRITERS[program](plan)
    assert says in written.text
    assert bool(says) == (plan_of(written.text, program, "32x4xgb200", tmp_path) == plan)
    assert bool(says) != ("training.precision = fp4" in written.unmapped)


@pytest.mark.parametrize("program", WRITERS)
def test_what_a_program_cannot_say_is_listed(program: str) -> None:
    plan = read_plan(EXAMPLES / "deepseek_v3_2048_h800.toml")
    assert any(
        "dualpipe" in line or "recompute" in line for line in WRITERS[program](plan).unmapped
    )


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("megatron", "python train.py --lr 1"),
        ("megatron", "--seq-length abc"),
        ("megatron", "--seq-length 'abc"),
        ("torchtitan", "[model"),
        ("torchtitan", "[model]\nname = 'x'"),
        ("torchtitan", "[training]\nseq_len = []"),
        ("nemo", "- a\n- b"),
        ("nemo", "{" * 2000),
        ("maxtext", "steps: 1"),
        ("vllm", "vllm serve nobody/none-7b"),
        ("vllm", "python -m something"),
        ("fairseq", ""),
    ],
)
def test_settings_of_something_else_are_refused_in_one_line(program: str, text: str) -> None:
    with pytest.raises(InputError) as refused:
        read_launcher(program, text)
    assert len(refused.value.problems) == 1
    assert "\n" not in refused.value.problems[0]


SETTINGS = {
    "megatron": MEGATRON,
    "torchtitan": TITAN,
    "maxtext": MAXTEXT,
    "nemo": NEMO,
    "vllm": VLLM,
}


@given(data=st.data(), program=st.sampled_from(sorted(READERS)))
@settings(max_examples=300, deadline=None)
def test_damaged_settings_are_read_or_refused(data: st.DataObject, program: str) -> None:
    """Whatever a piece of a file is replaced by, the answer is tables or a refusal in a line."""
    whole = SETTINGS[program]
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 40)))
    text = whole[:start] + data.draw(st.text(max_size=12)) + whole[end:]
    with suppress(InputError):
        assert read_launcher(program, text, 8).tables


def test_arguments_of_a_script() -> None:
    assert arguments('A=3\nrun --x $A --y_z="b c" --flag # --no') == {
        "x": "3",
        "y-z": "b c",
        "flag": True,
    }


@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1-8b"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
        ("Qwen/Qwen3-32B-FP8", "qwen3-32b"),
        ("nobody/none", None),
    ],
)
def test_names_of_tuned_copies(given_name: str, name: str | None) -> None:
    assert named_model(given_name) == name


def test_the_command_reads_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "pretrain.sh"
    script.write_text(MEGATRON.replace("--num-layers 80", "--num-layers 40"), encoding="utf-8")
    plan = tmp_path / "plan.toml"
    words = ["convert", str(script), "--from", "megatron", "--cluster", "16x8xh100-sxm"]
    assert run([*words, "-o", str(plan)]) == 0
    assert json.loads((tmp_path / "plan.config.json").read_text())["num_hidden_layers"] == 40
    assert run(["train", str(plan), "--json"]) == 0
    capsys.readouterr()
    assert run(["convert", str(plan), "--to", "skypilot"]) == 0
    task = yaml.safe_load(capsys.readouterr().out)
    assert task["num_nodes"] == 16
    assert task["resources"] == {"accelerators": "H100:8"}
    assert run(["convert", str(EXAMPLES / "serve_llama3_70b.toml"), "--to", "vllm"]) == 0
    assert capsys.readouterr().out.startswith("vllm serve llama3")


@pytest.mark.parametrize(
    "words",
    [["x.sh"], ["x.sh", "--from", "megatron"], ["x.toml", "--to", "keras"], ["x", "--to", "nemo"]],
)
def test_bad_commands_say_why(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", *words]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
