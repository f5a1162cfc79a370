"""What a CPU is given: the type of numbers, and threads for the cores that are free."""

import pytest

from mm_prm import cpu
from mm_prm.cli import BadInput


def test_the_type_of_a_cpu_is_bfloat16_where_it_has_units_for_it_and_a_variable_overrides(monkeypatch):
    monkeypatch.delenv("MM_PRM_CPU_DTYPE", raising=False)
    for flags, dtype in (("avx2 avx512f", "float32"), ("avx512f avx512_bf16 x", "bfloat16"), ("amx_bf16", "bfloat16")):
        monkeypatch.setattr(cpu.Path, "read_text", lambda path, flags=flags: f"flags : fpu {flags}\n")
        assert cpu.cpu_dtype() == dtype
    for dtype in cpu.DTYPES:
        monkeypatch.setenv("MM_PRM_CPU_DTYPE", dtype)
        assert cpu.cpu_dtype() == dtype
    monkeypatch.setenv("MM_PRM_CPU_DTYPE", "float16")
    with pytest.raises(BadInput, match="MM_PRM_CPU_DTYPE=float16"):
        cpu.cpu_dtype()


def test_ticks_are_those_of_our_cores_without_idle_and_waiting_ones():
    stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 4 100 200 8 16 32 0 0\n"
    stat += "cpu1 1 0 0 5 0 0 0 0 0 0\ncpu10 64 0 0 0 0 0 0 0 0 0\n"
    assert cpu.busy_ticks(stat, {0}) == 63 and cpu.busy_ticks(stat, {0, 1}) == 64 and cpu.busy_ticks(stat, {10}) == 64


@pytest.mark.parametrize(("busy", "free"), [(0, 2), (0.4, 2), (0.7, 1), (1, 1), (2, 1)])
def test_threads_are_the_cores_that_others_leave(monkeypatch, busy, free):
    now, others = [100.0], [50.0]
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(cpu.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(cpu.FreeCores, "others_seconds", lambda self: others[0])
    cores = cpu.FreeCores()
    now[0] += 0.1
    others[0] += 9  # too soon to be looked at
    assert cores.look() == 2
    now[0] += 0.9
    others[0] += busy - 9
    assert cores.look() == free
