"""oneDNN under load: many threads and devices, many shapes, programs kept on disk, the end of a process."""

import os
import subprocess
import sys

import pytest

from jaxcnn.kernels import onednn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(onednn.why_not() is not None, reason=str(onednn.why_not())),
]

START = """
import resource, sys, threading, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
from jaxcnn import conv2d
from jaxcnn.kernels import onednn

rng = np.random.default_rng(0)

def whole(*shape):
    return jnp.asarray(rng.integers(-1, 2, shape), jnp.float32)  # small: every order of summing is exact
"""

THREADS = """
mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
params, x = (whole(3, 3, 8, 16), whole(16), whole(3, 3, 16, 8), whole(8)), whole(16, 10, 9, 8)

def loss(params, x):
    w, b, v, c = params
    return conv2d(conv2d(x, w, b, padding=1), v, c, padding=1).sum() + conv2d(x, w, b, stride=2).sum()

def of_a_part(params, x):
    return jax.lax.psum(jax.grad(loss)(jax.lax.pcast(params, "d", to="varying"), x), "d")

whole_batch = jax.jit(jax.grad(loss))
in_parts = jax.jit(jax.shard_map(of_a_part, mesh=mesh, in_specs=(P(), P("d")), out_specs=P()))
assert all("jaxcnn_" in f.lower(params, x).as_text() for f in (whole_batch, in_parts))
expected = jax.tree.map(np.asarray, whole_batch(params, x))
end, right = time.monotonic() + 8, []

def work(i):
    f, args = (whole_batch, jax.device_put((params, x), jax.devices()[i])) if i < 4 else (in_parts, (params, x))
    while time.monotonic() < end:
        right.append(jax.tree.all(jax.tree.map(np.array_equal, f(*args), expected)))

threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
[thread.start() for thread in threads]
[thread.join(30) for thread in threads]
assert not any(thread.is_alive() for thread in threads) and len(right) > 100 and all(right), len(right)
"""

# More plans than are kept, so that each call makes its own anew. One takes some 40 KiB: an eighth of that for each call
# is less than a plan lost at every call would be, and more than what the allocators' many threads spread out, 2 KiB.
MEMORY = """
def program(size):
    weights, x = [whole(3, 3, c, c + 1) for c in range(1, 41)], whole(2, size, size, 40)
    gradient = jax.grad(lambda w, x: sum((conv2d(x[..., : a.shape[2]], a) ** 2).sum() for a in w), (0, 1))
    return jax.jit(gradient).lower(weights, x).compile(), weights, x

programs = [program(size) for size in range(4, 14)]
peaks = []
for _ in range(8):
    for f, *args in programs:
        jax.block_until_ready(f(*args))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
calls = 4 * sum(f.as_text().count('custom_call_target="jaxcnn_') for f, *_ in programs)
assert calls == 4 * 1200, calls
assert peaks[-1] - peaks[3] < 5 * calls, peaks  # KiB
"""

KEPT = """
if sys.argv[1] == "without":
    sys.modules["jaxcnn_onednn"] = None  # as where it is not installed
read = []
jax.monitoring.register_event_listener(lambda event, **_: read.append(event) if event.endswith("cache_hits") else None)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
args = (whole(3, 3, 4, 6), whole(6)), whole(4, 9, 8, 4)
lowered = jax.jit(jax.grad(lambda params, x: (conv2d(x, *params) ** 2).sum())).lower(*args)
read.clear()
compiled = lowered.compile()
was_read = bool(read)
total = sum(float(abs(a).sum()) for a in compiled(*args))
print(was_read, "jaxcnn_" in compiled.as_text(), total)
"""

# In threads of XLA's alone: a thread of Python's inside jaxlib may abort when its interpreter ends, with oneDNN or not.
END = """
x, params = jnp.ones((256, 48, 48, 32)), (jnp.ones((3, 3, 32, 32)), jnp.ones(32))
gradient = jax.jit(jax.grad(lambda params, x: (conv2d(x, *params) ** 2).sum())).lower(params, x).compile()
jax.block_until_ready(gradient(params, x))
print([gradient(params, x) for _ in range(3)][0][0].is_ready())
"""


def run(program, *arguments, **environment):
    """What the program prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", START + program, *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_eight_threads_on_four_devices_come_to_an_end_and_are_right():
    run(THREADS, XLA_FLAGS="--xla_force_host_platform_device_count=4")


def test_memory_is_flat_under_many_shapes():
    run(MEMORY)


def test_a_program_kept_on_disk_runs_again_and_without_the_library_another_does(tmp_path):
    kept = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    found = [run(KEPT, library, **kept).split() for library in ("with", "with", "without", "without", "with")]
    assert [f[:2] for f in found] == [
        ["False", "True"],
        ["True", "True"],
        ["False", "False"],
        ["True", "False"],
        ["True", "True"],
    ]
    assert len({f[2] for f in found}) == 1


def test_a_process_may_end_while_calls_run():
    assert run(END) == "False\n"
