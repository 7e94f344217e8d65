"""The child process: results, errors, crashes, hangs, memory, threads, forks and its parent's death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import ModelError
from graphopt.runtime.executor import Executor, ExecutorDied, ExecutorError, ExecutorTimeout, executor
from graphopt.runtime.package import package
from graphopt.runtime.run import open_session, run_model
from graphopt.runtime.session import ModelRefused, RunFailed


def model(body: str, signature: str, opset: int = 18) -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 9, opset_import: ["": {opset}]> g {signature} {{ {body} }}')


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_returns_values_and_arrays() -> None:
    array = np.arange(1_000_000, dtype=np.float32)
    found = executor().call("numpy:negative", array)
    assert np.array_equal(found, -array)
    assert found.ctypes.data % 64 == 0 and found.flags.writeable
    assert executor().call("os:getpid") != os.getpid()


def test_reraises_graphopt_errors_whole() -> None:
    child = executor()
    with pytest.raises(ModelError) as caught:
        child.call("graphopt.runtime.weights:_open", "/nowhere/x", (0, 0, 0, 0))
    assert str(caught.value) == "/nowhere/x: the weights cannot be read: No such file or directory"


def test_other_exceptions_carry_the_trace_of_the_child() -> None:
    with pytest.raises(ExecutorError, match="ZeroDivisionError: division by zero") as caught:
        executor().call("operator:truediv", 1, 0)
    assert "_carry_out" in caught.value.__notes__[0]


def test_unpicklable_result_is_an_error_and_the_child_lives_on() -> None:
    pid = executor().call("os:getpid")
    with pytest.raises(ExecutorError, match="pickle"):
        executor().call("threading:Lock")
    assert executor().call("os:getpid") == pid


def test_what_the_child_prints_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    executor().call("builtins:print", "noise")
    executor().call("os:write", 1, b"noise")
    executor().call("os:write", 2, b"noise")
    assert executor().call("operator:add", 1, 2) == 3
    assert capfd.readouterr() == ("", "")


def test_an_integer_division_kills_the_child_only() -> None:
    divide = package(model("y = Div(a, b)", "(int32[1] a, int32[1] b) => (int32[1] y)"))
    feeds = {"a": np.array([-(2**31)], np.int32), "b": np.array([-1], np.int32)}
    with pytest.raises(ExecutorDied) as caught:
        run_model(divide, feeds)
    assert str(caught.value) == (
        "run once: the process that runs models was killed by SIGFPE\n"
        "  an integer was divided by zero, or the smallest integer by -1"
    )
    assert run_model(divide, {**feeds, "b": np.array([1], np.int32)})["y"].item() == -(2**31)


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_an_integer_division_by_zero_is_an_error(op: str) -> None:
    divide = package(model(f"y = {op}(a, b)", "(int64[1] a, int64[1] b) => (int64[1] y)"))
    with pytest.raises(ExecutorError):  # some versions of ONNX Runtime refuse, others die
        run_model(divide, {"a": np.array([1]), "b": np.array([0])})


def test_exit_code_and_last_words_are_reported() -> None:
    with pytest.raises(ExecutorDied, match="ended with exit code 3\n  it said nothing before"):
        executor().call("os:_exit", 3)
    with pytest.raises(ExecutorDied, match="killed by SIGABRT"):
        executor().call("os:abort")


def test_an_endless_loop_is_stopped() -> None:
    loop = model(
        "trips = Constant<value_int=9223372036854775807>() go = Constant<value_int=1>() yes = Cast<to=9>(go)"
        " y = Loop(trips, yes, x) <body = b (int64 i, bool c, float v) => (bool d, float w)"
        " { d = Identity(c) w = Identity(v) }>",
        "(float x) => (float y)",
    )
    start = time.monotonic()
    with pytest.raises(ExecutorTimeout) as caught:
        run_model(package(loop), {"x": np.float32(1).reshape(())}, timeout=1)
    assert time.monotonic() - start < 60
    assert str(caught.value) == (
        "run once: stopped after 1 s without a result\n  allow more time, or use a smaller input"
    )
    assert executor().call("operator:add", 1, 1) == 2


@pytest.mark.parametrize("size", [2**62, 2**36, 2**33])
def test_absurd_sizes_are_an_error(size: int) -> None:
    huge = package(model("y = ConstantOfShape(s)", "(int64[1] s) => (float[n] y)"))
    pid = executor().call("os:getpid")
    with pytest.raises(RunFailed):
        run_model(huge, {"s": np.array([size])}, memory=1 << 30, timeout=60)
    assert executor().call("os:getpid") == pid


def test_memory_allowance_ends_with_the_call() -> None:
    with pytest.raises(ExecutorError, match="this needs more memory than it may take"):
        executor().call("numpy:ones", 1 << 28, memory=1 << 26)
    assert len(executor().call("numpy:ones", 1 << 20)) == 1 << 20


def test_refusals_carry_the_runtimes_own_words() -> None:
    with pytest.raises(ModelRefused, match=r"No Op registered for Nope with domain_version of 18"):
        run_model(package(model("y = Nope(x)", "(float[1] x) => (float[1] y)")), {})
    with pytest.raises(RunFailed, match="Got invalid dimensions for input: x"):
        run_model(package(model("y = Neg(x)", "(float[1] x) => (float[1] y)")), {"x": np.zeros(2, np.float32)})


def test_sessions_survive_the_loss_of_the_process() -> None:
    with open_session(package(model("y = Neg(x)", "(float[n] x) => (float[n] y)"))) as session:
        assert session.run({"x": np.ones(2, np.float32)})["y"].tolist() == [-1, -1]
        with pytest.raises(ExecutorDied):
            executor().call("os:_exit", 1)
        assert session.run({"x": np.ones(1, np.float32)})["y"].tolist() == [-1]


def test_threads_take_turns() -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(executor().call("operator:mul", n, n))) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [n * n for n in range(20)]


def test_a_fork_gets_a_child_of_its_own() -> None:
    ours = executor().call("os:getpid")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, str(executor().call("os:getpid")).encode())
        executor().close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert int(os.read(reader, 100)) != ours
    assert executor().call("os:getpid") == ours


@pytest.mark.parametrize("call", ['"os:getpid"', '"time:sleep", 60'])
def test_dies_with_its_parent(call: str) -> None:
    program = (
        "import threading, time; from graphopt.runtime.executor import executor; e = executor();"
        f"e.warm(); threading.Thread(target=lambda: e.call({call})).start();"
        "print(e.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_close_ends_the_process_and_the_next_call_starts_another() -> None:
    own = Executor()
    own.warm()
    first, generation = own.call("os:getpid"), own.generation
    own.close()
    assert own.pid is None and not alive(first)
    assert own.call("os:getpid") != first
    assert own.generation == generation + 1
    own.close()
