"""A device that trains as a CPU does passes; one that forgets does not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from plasticity.chapters.probing import device_check


@pytest.mark.slow
def test_agents_in_step_go_where_they_go_one_by_one() -> None:
    """In a process of its own: here shapes are checked, and a lane's array is not one yet."""
    code = "import json; from plasticity.chapters.probing import device_check; " + (
        "print(json.dumps(device_check.require()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"none", "reset_last_layer", "shrink_and_perturb"}
    assert all(distance < device_check.MOST / 10 for distance in found.values())


def test_a_device_on_which_parameters_stay_where_they_were_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forgetful(calls: list[Any]) -> list[Any]:
        return [(call.args[2], None) for call in calls]  # the state that it was given

    monkeypatch.setattr(device_check.lanes, "in_step", forgetful)
    assert all(distance == pytest.approx(1) for distance in device_check.distances().values())
    with pytest.raises(device_check.DeviceWrong, match=r"not train agents as .* \(none: 1,"):
        device_check.require()


def test_numbers_that_are_none_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_check, "distances", lambda: {"none": float("nan")})
    with pytest.raises(device_check.DeviceWrong, match="none: nan"):
        device_check.require()
