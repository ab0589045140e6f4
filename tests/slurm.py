"""A SLURM of this machine alone, for as long as a test needs it (Debian: slurm-wlm, munge)."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=requeue_delay=1,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
MaxNodeCount=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=high Nodes={host} PriorityTier=2 State=UP
"""


def why_not() -> str:
    """Return why there can be no SLURM here, or nothing."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"needs {', '.join(absent)} (Debian: slurm-wlm, munge)" if absent else ""


class Cluster:
    """A SLURM that runs; its commands."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}

    def run(self, *words: object) -> str:
        """Return what a command of SLURM prints."""
        command = [str(word) for word in words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *words: object) -> int:
        """Submit a batch script and return the number of the job."""
        return int(self.run("sbatch", "--parsable", *words))

    def field(self, job: int | str, name: str) -> str:
        """Return a field of a job: JobState, Restarts, ExitCode."""
        words = self.run("scontrol", "show", "job", job).split()
        return next(word.split("=", 1)[1] for word in words if word.startswith(f"{name}="))

    def wait(self, job: int | str, states: tuple[str, ...] = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL")) -> str:
        """Wait until a job is in one of some states."""
        for _ in range(1200):
            if (state := self.field(job, "JobState")) in states:
                return state
            time.sleep(0.2)
        raise AssertionError(f"job {job} is {state}: {(self.folder / 'slurmctld.log').read_text()[-3000:]}")


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start munge, the controller and the daemon of one node, in the foreground, and end them again."""
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    config = _CONFIG.format(host=host, ports=_free_ports(2), user=getpass.getuser(), folder=folder)
    (folder / "slurm.conf").write_text(config)
    found = Cluster(folder)
    munge = [f"--{name}={folder}/munge.{end}" for name, end in (("socket", "socket"), ("pid-file", "pid"))]
    munge += [f"--{name}-file={folder}/munge.{end}" for name, end in (("key", "key"), ("seed", "seed"), ("log", "log"))]
    programs = [["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]]
    with ExitStack() as running:
        for words in programs:
            running.enter_context(_in_background(words, found))
        _wait_for_node(found)
        yield found


@contextmanager
def _in_background(words: list[str], found: Cluster) -> Iterator[None]:
    with (found.folder / f"{words[0]}.out").open("wb") as output:
        process = subprocess.Popen(words, env=found.environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            time.sleep(0.5)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for_node(found: Cluster) -> None:
    for _ in range(100):
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=found.environment, capture_output=True, text=True)
        if done.stdout.split()[:1] == ["idle"]:
            return
        time.sleep(0.2)
    logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in found.folder.glob("*.out"))
    raise AssertionError(f"no node came up: {done.stdout}{done.stderr}\n{logs}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
