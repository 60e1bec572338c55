"""What a process says of itself, and that it says so where it could not find out."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import pytest

from plasticity.runs import origin


def test_provenance_says_what_computed(repository: Path) -> None:
    found = origin.environment()
    assert set(origin.PACKAGES) <= set(found["packages"])
    assert found["device"]["kind"]
    if (repository / ".git").exists():
        assert len(found["commit"]) == 40


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which the source is committed, for the one in which it lies."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # which may trust every owner
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    folder = tmp_path / "checkout"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "module.py").write_text("x = 1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "src")
    git(folder, "commit", "--quiet", "--message", "first")
    monkeypatch.setattr(origin, "CHECKOUT", folder)
    return folder


def source() -> tuple[Any, ...]:
    """Return the commit, whether the source is another, and why that is unknown."""
    found = origin.environment()
    return found["commit"], found["uncommitted_source"], found.get("why_unknown")


def test_what_git_knows_is_told(checkout: Path) -> None:
    commit, changed, why = source()
    assert len(commit) == 40 and (changed, why) == (False, None)
    (checkout / "notes.md").touch()  # is no source
    assert source() == (commit, False, None)
    (checkout / "src" / "new.py").touch()
    git(checkout, "config", "status.showUntrackedFiles", "no")
    assert source() == (commit, True, None)
    (checkout / "src" / "new.py").unlink()
    (checkout / "src" / "module.py").write_text("x = 2\n")
    assert source() == (commit, True, None)
    assert origin.told(origin.environment()) == f"commit `{commit[:10]}` with uncommitted changes"


@pytest.mark.parametrize("how", ["owner", "copy", "no git", "nothing committed"])
def test_what_git_does_not_tell_is_unknown_and_not_clean(
    how: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "src" / "module.py").write_text("x = 2\n")
    if how == "owner":
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    elif how == "no git":
        monkeypatch.setenv("PATH", str(checkout))
    else:
        (checkout / ".git").rename(checkout.parent / "away")
    if how == "nothing committed":
        git(checkout, "init", "--quiet")
    commit, changed, why = source()
    said = {
        "owner": "git: fatal: detected dubious ownership in repository at 'the checkout'",
        "copy": "there is no .git: the package was installed or copied",
        "no git": "git: No such file or directory",
        "nothing committed": "git: fatal: ambiguous argument 'HEAD': unknown revision",
    }[how]
    assert (commit, changed) == (None, None) and why.startswith(said)
    assert origin.told(origin.environment()) == f"commit unknown ({why})"


def test_a_commit_is_told_even_if_its_changes_are_unknown(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = origin._git

    def fails(*arguments: str) -> str:
        if arguments[0] == "status":
            return ask("no-such-command")
        return ask(*arguments)

    monkeypatch.setattr(origin, "_git", fails)
    commit, changed, why = source()
    assert len(commit) == 40 and changed is None and "is not a git command" in why
    told = origin.told(origin.environment(), mark="")
    assert told == f"commit {commit[:10]}, perhaps with uncommitted changes ({why})"


def test_in_a_hook_of_another_checkout_it_is_not_that_one(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = source()[0]
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    git(other, "commit", "--quiet", "--allow-empty", "--message", "another")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert source() == (commit, False, None)


def test_runs_from_before_it_was_noted_are_not_called_clean() -> None:
    assert origin.told({"commit": None, "uncommitted_source": False}) == "commit unknown"


def test_a_package_without_metadata_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def unknown(name: str) -> str:
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", unknown)
    found = origin.environment()["packages"]
    assert found["scipy"] is None and found["jax"] == version("jax")


def test_the_device_is_the_one_that_arrays_are_made_on() -> None:
    """On a machine with an accelerator, too, of which a user has chosen the CPU."""
    cpu = jax.devices("cpu")[0]
    for chosen in (cpu, "cpu"):
        with jax.default_device(chosen):
            assert origin._device() is cpu
    assert origin._device() is jax.devices()[0]


@pytest.mark.parametrize(
    ("cpuinfo", "told"),
    [
        (
            {
                "cpu family": "25", "model": "1", "stepping": "1",
                "flags": "fpu fma sse4_2 avx512f avx2",
            },
            "cpu family 25, model 1, stepping 1; avx2 avx512f fma sse4_2",
        ),
        ({"Features": "fp asimd sve"}, "asimd sve"),
        (
            {"CPU implementer": "0x41", "CPU part": "0xd40", "Features": "asimd"},
            "CPU implementer 0x41, CPU part 0xd40; asimd",
        ),
        ({}, ""),
    ],
)  # fmt: skip
def test_a_processor_is_told_by_model_and_instruction_sets(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: dict[str, str], told: str
) -> None:
    """Two of one name may compute other last bits: "AMD EPYC" is the name of many."""
    monkeypatch.setattr(origin, "_cpuinfo", lambda: cpuinfo)
    assert origin.environment()["device"]["processor"] == told
