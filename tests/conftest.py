"""Eight fake devices, strict promotion and a shared compilation cache for every test."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", str(Path(tempfile.gettempdir()) / "omnimouse_jax_test_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

_hook = install_import_hook("omnimouse_jax", "beartype.beartype")


import pytest  # noqa: E402

#: A process may have 65,530 mapped regions on Linux, each executable takes some, and a compiler that gets none crashes.
MANY_REGIONS = 45_000


@pytest.fixture(autouse=True)
def few_executables():
    """Forgets all compiled programs, ours and jax's, once this process holds very many."""
    yield
    regions = Path("/proc/self/maps")
    if not regions.exists() or len(regions.read_bytes().splitlines()) < MANY_REGIONS:
        return
    for module in [module for name, module in sys.modules.items() if name.startswith("omnimouse_jax.")]:
        for value in list(vars(module).values()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def colony(tmp_path_factory) -> str:
    """A store of three small synthetic mice."""
    from omnimouse_jax.recordings.synthetic import synthesize

    store = str(tmp_path_factory.mktemp("colony") / "store")
    synthesize(store, "tiny", {}, workers=1)
    return store


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a file system of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
