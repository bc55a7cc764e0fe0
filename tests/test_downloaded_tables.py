"""Tables of other projects as they are downloaded: aiconfigurator's, vidur's, vTrain's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ridgeline.errors import InputError
from ridgeline.hardware import load_accelerator
from ridgeline.validation.kernels import KernelTable, read_kernel_table, validate_kernels
from ridgeline.validation.kernels.floors import check_units
from ridgeline.validation.measured import read_measured

AIC = "framework,version,device,op_name,kernel_source"
WHO = "VLLM,0.24.0,NVIDIA H100 80GB HBM3"
ATTENTION = (
    f"{AIC},batch_size,isl,num_heads,num_key_value_heads,head_dim,beam_width,attn_dtype,"
    "kv_cache_dtype,step,latency"
)
OPS = ("emb", "attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_act", "mlp_down_proj")
MLP = ",".join(
    [
        *(f"time_stats.{op}.{figure}" for op in OPS for figure in ("min", "median")),
        "n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,use_gated_mlp,num_tokens",
        "num_tensor_parallel_workers",
    ]
)
COLLECTIVE = (
    ",time_stats.all_reduce.min,time_stats.all_reduce.median,rank,num_workers,size,collective,"
    "devices_per_node,max_devices_per_node"
)
VIDUR_ATTENTION = (
    "time_stats.attn_decode.median,time_stats.attn_prefill.median,n_embd,n_q_head,n_kv_head,"
    "block_size,num_tensor_parallel_workers,max_model_len,batch_size,prefill_chunk_size,"
    "kv_cache_size,is_prefill,attention_backend"
)
VTRAIN = (
    "Parameters (billion),# GPUs,global batch,micro batch,hidden size,attention heads,# layers,"
    "sequence length,tensor parallelism,data parallelism,pipeline parallelism,iteration time (ms)"
)


def save(folder: Path, *lines: str) -> Path:
    path = folder / "table.txt"
    path.write_text("\n".join([*lines, ""]))
    return path


def read(folder: Path, *lines: str) -> KernelTable:
    return read_kernel_table(save(folder, *lines))


def refusal(folder: Path, *lines: str) -> str:
    with pytest.raises(InputError) as refused:
        read(folder, *lines)
    (line,) = refused.value.problems
    return line


# aiconfigurator ----------------------------------------------------------------------------------


def test_aiconfigurator_gemm(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        f"{AIC},gemm_dtype,m,n,k,latency,power",
        f"{WHO},gemm,cutlass,bfloat16,4096,8192,4096,0.42,600",
    )
    assert table.kind == "gemm"
    assert [int(table[name][0]) for name in ("m", "n", "k")] == [4096, 8192, 4096]
    # milliseconds there
    assert table.latency_us.tolist() == pytest.approx([420.0])
    assert (table["backend"][0], table["version"][0]) == ("vllm", "0.24.0")
    assert (table["kernel"][0], table["dtype"][0]) == ("cutlass", "bfloat16")
    check_units(table, load_accelerator("h100-sxm"))


def test_aiconfigurator_without_who_measured(tmp_path: Path) -> None:
    table = read(tmp_path, "gemm_dtype,m,n,k,latency", "fp8,64,64,64,0.004")
    assert {str(table[name][0]) for name in ("backend", "version", "kernel")} == {"unknown"}


def test_aiconfigurator_attention(tmp_path: Path) -> None:
    prefill = read(
        tmp_path,
        ATTENTION,
        f"{WHO},context_attention,fa3,2,1024,32,8,128,1,bfloat16,fp8,0,0.3",
        f"{WHO},context_attention,fa3,2,1024,32,8,128,1,bfloat16,fp8,512,0.4",
    )
    assert prefill.kind == "prefill"
    assert prefill["seq_len"].tolist() == [1024]
    assert prefill["window"].tolist() == [0]
    assert prefill.filtered == ((1, "continues a cached prefix"),)
    decode = read(
        tmp_path,
        ATTENTION + ",window_size",
        f"{WHO},generation_attention,fa3,2,1,32,8,128,1,bfloat16,fp8,1023,0.3,128",
    )
    assert decode.kind == "decode"
    # the new token and the 1,023 before it
    assert decode["kv_len"].tolist() == [1024]
    assert decode["window"].tolist() == [128]
    assert "only" in refusal(tmp_path, ATTENTION, f"{WHO},x,y,1,1,1,1,64,1,fp8,fp8,0,0.1")


def test_aiconfigurator_moe_and_collectives(tmp_path: Path) -> None:
    moe = read(
        tmp_path,
        f"{AIC},moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,"
        "moe_ep_size,distribution,latency",
        f"{WHO},moe,triton,fp8,128,4096,1536,8,128,1,8,power_law_1.2,0.2",
    )
    assert moe.kind == "moe"
    assert (moe["ffn"][0], moe["top_k"][0], moe["ep"][0]) == (1536, 8, 8)
    nccl = read(
        tmp_path, "nccl_dtype,num_gpus,message_size,op_name,latency", "half,8,1024,all_gather,0.02"
    )
    # messages are counted in elements
    assert (nccl["op"][0], nccl["bytes"][0], nccl["backend"][0]) == ("all_gather", 2048, "nccl")
    custom = read(
        tmp_path,
        f"{AIC},allreduce_dtype,num_gpus,message_size,latency,backend",
        f"{WHO},all_reduce,vLLM_custom_graph,bfloat16,2,128,0.004,vllm_graph",
    )
    assert (custom["op"][0], custom["bytes"][0]) == ("custom_all_reduce", 256)
    assert custom["kernel"][0] == "vLLM_custom_graph"
    header = "nccl_dtype,num_gpus,message_size,op_name,latency"
    assert "'int4'" in refusal(tmp_path, header, "int4,8,1024,all_gather,0.02")


def test_what_git_lfs_left_is_refused(tmp_path: Path) -> None:
    line = refusal(tmp_path, "version https://git-lfs.github.com/spec/v1", "oid sha256:0", "size 1")
    assert line.endswith("is a pointer of git-lfs, not the file itself; run git lfs pull")


def test_parquet_is_read_with_pyarrow(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    path = tmp_path / "gemm_perf.parquet"
    row = {"gemm_dtype": "fp8", "m": 64, "n": 128, "k": 256, "latency": 0.004}
    pd.DataFrame([row | {"framework": "SGLang", "version": "0.5.14"}]).to_parquet(path)
    table = read_kernel_table(path)
    assert (table.kind, table["m"][0], table["backend"][0]) == ("gemm", 64, "sglang")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged Parquet"):
        read_kernel_table(path)


def test_parquet_without_pyarrow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "gemm_perf.parquet"
    path.write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    with pytest.raises(InputError, match="needs pyarrow"):
        read_kernel_table(path)


# vidur -------------------------------------------------------------------------------------------


def test_vidur_projections(tmp_path: Path) -> None:
    """Llama-2-7B on four workers, then on one with a figure missing."""
    ms = "0.1,0.2,1.7,1.8,0.5,0.6,3.0,3.1,0.2,0.3,1.4,1.5"
    table = read(
        tmp_path,
        MLP,
        f"{ms},32,32,4096,11008,32768,True,4096,4",
        f"{ms.replace('1.8', '')},32,8,4096,11008,32768,False,512,1",
    )
    assert table.kind == "gemm"
    found = {
        (int(row), str(kernel)): (int(m), int(n), int(k), float(us))
        for row, kernel, m, n, k, us in zip(
            table.rows,
            table["kernel"],
            table["m"],
            table["n"],
            table["k"],
            table.latency_us,
            strict=True,
        )
    }
    assert found[0, "attn_pre_proj"] == (4096, 3 * 4096 // 4, 4096, 1800.0)
    assert found[0, "attn_post_proj"] == (4096, 4096, 4096 // 4, 600.0)
    # gated: two matrices side by side
    assert found[0, "mlp_up_proj"] == (4096, 2 * 11008 // 4, 4096, 3100.0)
    assert found[0, "mlp_down_proj"] == (4096, 4096, 11008 // 4, 1500.0)
    assert found[1, "mlp_up_proj"] == (512, 11008, 4096, 3100.0)
    assert (1, "attn_pre_proj") not in found
    assert table.filtered == ((1, "attn_pre_proj: no figure of it in the row"),)
    assert set(table["dtype"]) == {"float16"}
    assert "workers" in refusal(tmp_path, MLP, f"{ms},32,32,4096,11008,32768,True,4096,8192")
    assert "must be a finite number" in refusal(
        tmp_path, MLP, f"{ms.replace('1.8', 'fast')},32,32,4096,11008,32768,True,4096,1"
    )


def test_vidur_attention(tmp_path: Path) -> None:
    decode = "0.015,,8192,64,8,16,2,4096,4,0,1023,False,FLASH_ATTENTION"
    prefill = ",0.4,8192,64,8,16,2,4096,1,512,0,True,FLASH_ATTENTION"
    table = read(tmp_path, VIDUR_ATTENTION, decode, prefill)
    assert table.kind == "decode"
    sizes = ("batch", "kv_len", "heads", "kv_heads", "head_dim")
    assert [int(table[name][0]) for name in sizes] == [4, 1024, 32, 4, 128]
    assert table.latency_us.tolist() == pytest.approx([15.0])
    assert [row for row, _ in table.filtered] == [1]
    alone = read(tmp_path, VIDUR_ATTENTION, prefill, prefill.replace(",512,0,", ",512,64,"))
    assert alone.kind == "prefill"
    assert alone["seq_len"].tolist() == [512]
    assert alone.filtered == ((1, "continues a cached prefix"),)


def test_vidur_collectives(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        COLLECTIVE,
        "0,0.015,0.037,0,8,2048,all_reduce,8,8",
        "1,0.015,0.047,0,8,2048,all_reduce,4,8",
    )
    assert table.kind == "collective"
    assert (table["op"][0], table["num_gpus"][0], table["bytes"][0]) == ("all_reduce", 8, 2048)
    assert table.latency_us.tolist() == pytest.approx([37.0])
    assert table.filtered == ((1, "crosses nodes"),)
    sends = COLLECTIVE.replace("all_reduce", "send_recv")
    assert "sends to one peer" in refusal(tmp_path, sends, "0,0.01,0.02,0,2,2048,send_recv,1,8")
    assert "crosses nodes" in refusal(tmp_path, COLLECTIVE, "0,1,1,0,8,2048,all_reduce,4,8")


def test_downloaded_rows_are_priced(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        f"{AIC},gemm_dtype,m,n,k,latency",
        f"{WHO},gemm,cutlass,bfloat16,4096,8192,4096,0.42",
        f"{WHO},gemm,cutlass,bfloat16,8192,8192,4096,0.84",
    )
    report = validate_kernels(path, load_accelerator("h100-sxm"))
    assert [row.status for row in report.rows] == ["ok", "ok"]
    # 275 GFLOP at about 650 TFLOP/s
    assert report.overall.mape is not None
    assert report.overall.mape < 0.3


# vTrain ------------------------------------------------------------------------------------------


def test_vtrain_iterations(tmp_path: Path) -> None:
    row, last = read_measured(
        save(
            tmp_path,
            VTRAIN,
            "39.1,512,1536,2,8192,64,48,2048,4,8,16,14529.6",
            "3.6,64,512,8,3072,32,30,2048,1,64,1,3566.5",
        )
    )
    assert row.iter_time_s == pytest.approx(14.5296)
    assert (row.num_accel, row.tp, row.pp, row.dp) == (512, 4, 16, 8)
    assert (row.ffn_hidden, row.head_dim, row.kv_heads) == (32768, 128, 64)
    assert (row.accelerator, row.recompute, row.schedule) == ("A100", "full", "1f1b")
    assert last.schedule == "none"
    assert row.id != last.id


def test_vtrain_single_node_tables_lack_parameters(tmp_path: Path) -> None:
    header = VTRAIN.removeprefix("Parameters (billion),")
    (row,) = read_measured(save(tmp_path, header, "2,16,8,1024,16,24,1024,1,1,2,372.160408"))
    assert row.params_b is None
    assert row.iter_time_s == pytest.approx(0.372160408)


def test_mistakes_of_vtrain_tables_are_told_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read_measured(
            save(
                tmp_path,
                VTRAIN,
                "3.6,64,512,8,3072,32,30,2048,1,64,1",
                "3.6,64,512,8,3072,none,30,2048,1,64,1,fast",
            )
        )
    text = "\n".join(refused.value.problems)
    assert ":2: truncated line" in text
    assert ":3: heads = 'none': not a number" in text
    assert ":3: iter_time_s = 'fast': not a number" in text
