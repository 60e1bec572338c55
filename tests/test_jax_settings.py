"""Settings of JAX: which change numbers, which are not JAX's own, and who computes under them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from plasticity import jax_settings, lanes, programs

HARMLESS = {
    # sharding, which one device has none of
    "check_vma", "jax_auto_pcast", "jax_disable_vmap_shmap_error",
    "jax_disallow_mesh_context_manager", "jax_raise_on_ppermute_sort_diff",
    "jax_remove_size_one_mesh_axis_from_type",
    "jax_use_cpp_shard_args", "jax_use_rgv3", "jax_use_shardy_partitioner",
    # checks, which raise or leave alone
    "jax_allow_f16_reductions", "jax_check_static_indices", "jax_check_tracer_leaks",
    "jax_debug_infs", "jax_debug_key_reuse", "jax_debug_nans", "jax_disable_bwd_checks",
    "jax_enable_checks", "jax_enable_custom_prng", "jax_error_checking_behavior_divide",
    "jax_error_checking_behavior_nan", "jax_error_checking_behavior_oob",
    "jax_experimental_unsafe_xla_runtime_errors", "jax_legacy_prng_key", "jax_mutable_array_checks",
    "jax_no_execution", "jax_no_tracing", "jax_numpy_rank_promotion", "jax_thread_guard",
    "jax_transfer_guard", "jax_transfer_guard_device_to_device",
    "jax_transfer_guard_device_to_host", "jax_transfer_guard_host_to_device",
    # which device: a run notes what it is
    "jax_backend_target", "jax_cuda_visible_devices", "jax_default_device", "jax_mock_gpu_topology",
    "jax_oneapi_visible_devices", "jax_pjrt_client_create_options", "jax_platform_name",
    "jax_platforms", "jax_rocm_visible_devices", "jax_sort_devices_by_process_index",
    "jax_xla_backend", "mock_num_gpu_processes",
    # several hosts
    "jax_check_proxy_envs", "jax_cpu_collectives_implementation",
    "jax_cpu_get_global_topology_timeout_minutes", "jax_cpu_get_local_topology_timeout_minutes",
    "jax_cross_host_transfer_socket_address", "jax_cross_host_transfer_timeout_seconds",
    "jax_cross_host_transfer_transfer_size", "jax_cross_host_transport_addresses",
    "jax_distributed_debug", "jax_distributed_verify_secure_credentials",
    "jax_enable_preemption_service", "jax_enable_recoverability",
    "jax_force_dcn_cross_host_transfers", "jax_mtls_ca_file", "jax_mtls_cert_file",
    "jax_mtls_key_file", "jax_mtls_peer_uri_prefix", "jax_share_binary_between_hosts",
    "jax_share_binary_between_hosts_timeout_ms",
    # the cache of compiled programs, memory, order
    "jax_array_garbage_collection_guard", "jax_compilation_cache_check_contents",
    "jax_compilation_cache_dir", "jax_compilation_cache_expect_pgle",
    "jax_compilation_cache_include_metadata_in_key", "jax_compilation_cache_max_size",
    "jax_cpu_enable_async_dispatch", "jax_debug_leaked_clients_on_clear_backends",
    "jax_enable_compilation_cache", "jax_persistent_cache_enable_xla_caches",
    "jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes",
    "jax_pgle_aggregation_percentile", "jax_pgle_profiling_runs",
    "jax_raise_persistent_cache_errors", "jax_refs_to_pins",
    "jax_remove_custom_partitioning_ptr_from_cache_key", "jax_xla_profile_version",
    # what is printed, logged, dumped, exported
    "jax2tf_associative_scan_reductions", "jax2tf_default_native_serialization",
    "jax_captured_constants_report_frames", "jax_captured_constants_warn_bytes",
    "jax_compiler_detailed_logging_min_ops", "jax_debug_log_modules", "jax_dump_ir_modes",
    "jax_dump_ir_to", "jax_explain_cache_misses", "jax_export_calling_convention_version",
    "jax_export_deserialize_expired_versions", "jax_export_ignore_forward_compatibility",
    "jax_hlo_source_file_canonicalization_regex", "jax_include_debug_info_in_dumps",
    "jax_include_full_tracebacks_in_locations", "jax_log_checkpoint_residuals", "jax_log_compiles",
    "jax_logging_level", "jax_pprint_use_color", "jax_send_traceback_to_runtime",
    "jax_serialization_version", "jax_source_url_schema", "jax_traceback_filtering",
    "jax_traceback_in_locations_limit", "jax_tracer_error_num_traceback_frames",
    # kernels written by hand, of which nothing here has any; random integers by another kernel
    "jax_mosaic_allow_hlo", "jax_mosaic_unzip_debug_locations",
    "jax_pallas_auto_assign_collective_ids", "jax_pallas_auto_assign_collective_ids_limit",
    "jax_pallas_enable_debug_checks", "jax_pallas_poison_buffers", "jax_pallas_verbose_errors",
    "jax_threefry_gpu_kernel_lowering", "jax_use_emit_pipeline_primitive",
}  # fmt: skip
"""Settings of which no number depends, or of which a run notes what they decide."""

ASK = "import json; from plasticity import jax_settings as s; print(json.dumps(s.differing()))"


def asked(**variables: str | None) -> Any:
    """Return what a process notes whose environment is this one's with some variables changed."""
    changed = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True,
        env={name: text for name, text in changed.items() if text is not None},
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_plain_process_notes_nothing() -> None:
    """What is said to be JAX's own is what this version of JAX has."""
    ours = [name for name in os.environ if name.startswith(("JAX_", "XLA_"))]
    unset: dict[str, None] = dict.fromkeys(
        [*ours, *jax_settings.VARIABLES, "EAGER_CONSTANT_FOLDING"]
    )
    assert asked(**unset | {"JAX_PLATFORMS": "cpu"}) == {}  # type: ignore[arg-type]


def test_every_setting_of_this_jax_is_noted_or_known_to_be_harmless() -> None:
    noted = {*jax_settings.PROGRAM, *jax_settings.ROUNDING, jax_settings.PRECISION}
    assert not noted & HARMLESS
    new = set(jax.config.values) - noted - HARMLESS
    assert not new, "does a number depend on it? Then it belongs to plasticity.jax_settings"


def test_another_process_computes_under_the_settings_of_this_thread() -> None:
    with (
        jax.enable_x64(True),
        jax.default_prng_impl("rbg"),
        jax.numpy_dtype_promotion("strict"),
        jax.default_matmul_precision("highest"),
    ):
        here, variables = jax_settings.differing(), jax_settings.variables()
    chosen = {
        "jax_enable_x64": True, "jax_default_prng_impl": "rbg",
        "jax_numpy_dtype_promotion": "strict",
    }  # fmt: skip
    assert here.items() >= chosen.items()
    assert variables["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
    assert asked(**variables) == here


def test_a_setting_that_was_taken_back_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    with jax.enable_x64(False), jax.default_matmul_precision(None):
        found = jax_settings.variables()
    assert (found["JAX_ENABLE_X64"], found["JAX_DEFAULT_MATMUL_PRECISION"]) == ("False", None)


def test_flags_are_what_xla_reads(tmp_path: Path) -> None:
    file = tmp_path / "flags"
    file.write_text("--xla_b=2 --xla_dump_hlo_as_text\n--xla_a=1\n")
    assert jax_settings.flags(str(file)) == "--xla_a=1 --xla_b=2"
    assert jax_settings.flags(" --xla_b=2  --xla_a=3 --xla_a=1 ") == "--xla_a=1 --xla_b=2"
    assert jax_settings.flags("--xla_gpu_dump_llvmir --xla_gpu_cuda_data_dir=there") == ""
    assert jax_settings.flags("no such file") == "no such file"
    several = "--xla_force_host_platform_device_count=8"  # which cut sums into other parts
    assert jax_settings.flags(several) == several


def test_variables_of_libraries_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    for name in jax_settings.VARIABLES[1:]:
        monkeypatch.delenv(name, raising=False)
    assert jax_settings.differing() == {}
    monkeypatch.setenv("NPROC", "7")
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    assert jax_settings.differing() == {"NPROC": "7", "XLA_FLAGS": "--xla_a=1"}


def test_lanes_compute_under_the_settings_of_who_calls_them() -> None:
    """Each in a thread of its own, to which a context manager of JAX does not reach."""

    @programs.program()
    def double(x: jax.Array) -> jax.Array:
        return 2 * x

    def lane() -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return double(jnp.ones(2))

    for wide in (False, True):
        with jax.enable_x64(wide):
            kinds = {str(found.dtype) for found in lanes.in_step([lane, lane])}
        assert kinds == {"float64" if wide else "float32"}


def test_lanes_are_compiled_anew_under_other_settings() -> None:
    @programs.program()
    def drawn(key: jax.Array) -> jax.Array:
        return jax.random.randint(key, (), 0, 2**30, jnp.int32)

    keys, found = jax.random.split(jax.random.key(0)), []
    for way in (True, False):
        with jax.threefry_partitionable(way):
            lane = lanes.in_step([lambda key=key: drawn(key) for key in keys])[0]
            found.append((int(jnp.asarray(lane)), int(drawn(keys[0]))))
    (first, alone), (second, alone_too) = found
    assert (first, second) == (alone, alone_too) and first != second
