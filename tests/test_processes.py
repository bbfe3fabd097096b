"""Forks, before and after the library is used: children compute, at once, and print nothing.

GNU OpenMP hangs or aborts in a process that was forked after anybody's first parallel region, and
a lock that another thread holds at the time of a fork is never released in the child.
"""

import os

import pytest
from processes import python
from test_threads import OWN_KERNEL, PROBLEM, expected, layer, under

__all__ = ["layer"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

FORK = """
signal.alarm(140)  # nobody waits for a child that hangs
warnings.simplefilter("ignore")  # Python warns of forking beside threads
def fork(inside):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        inside()
        sys.stdout.flush()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the child ended with {status}"
"""


def test_fork(layer: str) -> None:
    """A child forked after a parallel call computes, as do its own child and its parent again."""
    code = """
print(bits())
fork(lambda: (print(bits()), fork(lambda: print(bits()))))
print(bits())
"""
    assert under(layer, FORK + code) == [expected()] * 4


def test_fork_after_somebody_elses_kernel(layer: str) -> None:
    """The parent has imported the library, but only somebody else's code has used threads."""
    code = "own(10)\nfork(lambda: print(bits()))\nprint(bits())"
    assert under(layer, OWN_KERNEL + FORK + code) == [expected()] * 2


def test_import_in_a_forked_process(layer: str) -> None:
    """The library is imported by the child alone; its parent has used threads."""
    code = f"""
import os, signal, sys, warnings
import numba
{OWN_KERNEL}
{FORK}
own(10)
fork(lambda: exec({PROBLEM + "print(bits())"!r}, globals()))
"""
    out = python(code, quiet=True, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert out.split() == [expected()]


def test_fork_beside_a_running_kernel(layer: str) -> None:
    """Forked while another thread computes, a child does not wait for that thread."""
    code = """
want = bits()
done = threading.Event()
def work():
    while not done.is_set():
        bits()
worker = threading.Thread(target=work)
worker.start()
for _ in range(5):
    fork(lambda: print(bits() == want))
done.set()
worker.join()
"""
    expected()  # the child then finds the serial kernel in the cache
    words = under(layer, FORK + code)
    # Numba itself says so, whatever runs under TBB while somebody forks.
    told = "Unable to join threads to shut down before fork(). " * (layer == "tbb")
    told += "This can break multithreading in child processes." * (layer == "tbb")
    assert [word for word in words if word not in told.split()] == ["True"] * 5


def test_fork_beside_a_compilation() -> None:
    """Forked while another thread compiles, a child can compile too."""
    code = """
entered = threading.Event()
@numba.extending.register_jitable
def same(x):
    return x
@numba.njit
def slow(x):
    return same(x) + 1
from numba.core.compiler_lock import global_compiler_lock
def compile_something():
    with global_compiler_lock:
        entered.set()
        time.sleep(0.5)
        slow(1)
worker = threading.Thread(target=compile_something)
worker.start()
entered.wait()
fork(lambda: (print(bits()), slow(1.5)))
worker.join()
print(bits())
"""
    assert under("workqueue", "import time\nbits()\n" + FORK + code) == [expected()] * 2


def test_prefork_server(layer: str) -> None:
    """A server that loads, forks workers, and forks another for one that ended."""
    code = """
import gc
gc.freeze()
workers = []
def start():
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        for _ in range(3):
            print(bits() + "\\n", end="")
        sys.stdout.flush()
        os._exit(0)
    return child
workers = [start() for _ in range(3)]
assert os.waitpid(workers.pop(), 0)[1] == 0
workers.append(start())
for worker in workers:
    assert os.waitpid(worker, 0)[1] == 0
"""
    assert under(layer, FORK + "bits()\n" + code) == [expected()] * 12


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(layer: str, method: str, tmp_path: object) -> None:
    """Pools of processes, as data loaders use them, beside a parent that computes as well."""
    script = f"{tmp_path}/main.py"
    body = """
import multiprocessing
def work(_):
    return bits()
if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(bits())
    with multiprocessing.get_context(METHOD).Pool(2) as pool:
        waiting = pool.map_async(work, range(4))
        print(bits())
        print(*waiting.get(120))
"""
    with open(script, "w", encoding="utf-8") as file:
        file.write(PROBLEM + body.replace("METHOD", repr(method)))
    code = f"import runpy; runpy.run_path({script!r}, run_name='__main__')"
    # Spawned processes import the main module by its path.
    code = (
        f"import subprocess, sys; done = subprocess.run([sys.executable, {script!r}], "
        "capture_output=True, encoding='utf-8', timeout=140); "
        "print(done.stdout); print(done.stderr, file=sys.stderr, end=''); sys.exit(done.returncode)"
    )
    expected()
    variables = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    out = python(code, quiet=True, timeout=170, **variables)
    assert out.split() == [expected()] * 6
