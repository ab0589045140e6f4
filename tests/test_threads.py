from pathlib import Path

import pytest

from cryoatom import threads
from cryoatom.threads import available_cores


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(threads, "_affinity", lambda: 16)


def machine(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def cores(root: Path, **environment: str) -> int:
    return available_cores(environment=environment, root=root)


def test_without_limits_it_is_the_affinity_mask(tmp_path):
    assert cores(tmp_path) == 16


def test_the_user_overrides_everything(tmp_path):
    assert available_cores(64, environment={"SLURM_CPUS_PER_TASK": "4"}, root=tmp_path) == 64
    with pytest.raises(ValueError, match="at least 1, found 0"):
        available_cores(0)


@pytest.mark.parametrize(("granted", "expected"), [("4", 4), ("64", 16), ("", 16), ("many", 16)])
def test_slurm_can_only_lower_it(tmp_path, granted, expected):
    assert cores(tmp_path, SLURM_CPUS_PER_TASK=granted) == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 16),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("800000 100000\n", 8),
        ("9900000 100000\n", 16),
    ],
)
def test_cgroup_v2_quota_is_rounded_down(tmp_path, quota, expected):
    root = machine(tmp_path, "0::/job/step\n", {"sys/fs/cgroup/job/step/cpu.max": quota})
    assert cores(root) == expected


def test_cgroup_v2_an_outer_group_limits_too(tmp_path):
    files = {"sys/fs/cgroup/job/step/cpu.max": "max 100000", "sys/fs/cgroup/job/cpu.max": "300000 100000"}
    assert cores(machine(tmp_path, "0::/job/step\n", files)) == 3


def test_cgroup_v2_inside_a_container_the_limit_stands_at_the_mount(tmp_path):
    assert cores(machine(tmp_path, "0::/not/mounted\n", {"sys/fs/cgroup/cpu.max": "200000 100000"})) == 2


@pytest.mark.parametrize(
    ("mount", "controllers"), [("cpu", "cpu"), ("cpu,cpuacct", "cpu,cpuacct"), ("cpu", "cpuacct,cpu")]
)
@pytest.mark.parametrize(("quota", "expected"), [("-1", 16), ("400000", 4)])
def test_cgroup_v1_quota(tmp_path, mount, controllers, quota, expected):
    folder = f"sys/fs/cgroup/{mount}/slurm"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}
    root = machine(tmp_path, f"4:memory:/other\n1:{controllers}:/slurm\n", files)
    assert cores(root) == expected


def test_the_smallest_limit_wins(tmp_path):
    root = machine(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "600000 100000"})
    assert cores(root, SLURM_CPUS_PER_TASK="8") == 6
    assert cores(root, SLURM_CPUS_PER_TASK="3") == 3


def test_this_machine_has_a_core():
    assert available_cores() >= 1
