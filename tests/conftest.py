"""Strict numerics for the whole suite, one compilation cache, eight virtual devices."""

import gc
import importlib.metadata
import os
import tempfile

# the suite is mostly compilation, of programs too small to be worth a second thread
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
FLAGS += " --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib") < "0.11":  # the older code generator compiles in half the time
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # NumPy's threads would fight with those of the other worker
    os.environ.setdefault(name, "1")
os.environ["NPROC"] = "64"  # with fewer threads than devices a collective on CPU can wait for ever
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402

CACHE = tempfile.TemporaryDirectory(prefix="lpg_jax_tests_")
jax.config.update("jax_compilation_cache_dir", CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)  # to store the small ones costs more than it saves
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

gc.set_threshold(100_000, 50, 100)  # what is traced fills the heap with objects that live as long as the process


@pytest.fixture
def strict():
    """Rank promotion raises and dtype promotion is strict (for our code; Flax and optax promote ranks)."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
