"""The keeper: a tiny parent for one program, so that its end is known even when the service that began it is gone.

    python -I -S keeper.py FOLDER LOG -- PROGRAM ARGUMENT…

Starts the program in a process group of its own, writes FOLDER/child.json, prints one line, waits, ends whatever the
program left in its group, and writes FOLDER/exit.json. It imports only the standard library and little of that: one
keeper lives as long as its run.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys


def start_time(pid: int) -> str:
    """Return what tells this process from a later one with the same number; '' when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return ""
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return shown.stdout.strip()
    except ProcessLookupError:
        return ""
    if fields[0] in (b"Z", b"X"):
        return ""
    return f"{boot}/{fields[19].decode()}"


def oom_kills(root: str = "") -> int:
    """Return how many processes the kernel has killed for memory so far: in this control group, or else anywhere."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        with open(f"{root}/proc/self/cgroup") as file:
            group = dict(line.rstrip("\n").split("::", 1) for line in file if line.startswith("0::"))["0"]
        return _counted(f"{root}/sys/fs/cgroup{group}/memory.events")
    with contextlib.suppress(OSError, ValueError, LookupError):
        return _counted(f"{root}/proc/vmstat")
    return 0


def _counted(path: str) -> int:
    with open(path) as file:
        return int(dict(line.split() for line in file)["oom_kill"])


def write(folder: str, name: str, record: dict[str, object]) -> None:
    """Write FOLDER/NAME so that it is there whole or not at all, and survives a power cut."""
    aside = os.path.join(folder, f".{name}")
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, os.path.join(folder, name))


def say(line: str) -> None:
    """Tell whoever started this keeper; it may be gone already."""
    with contextlib.suppress(OSError):
        os.write(1, f"{line}\n".encode())
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


def main(folder: str, log: str, argv: list[str]) -> int:
    """Run `argv` to its end; return 0, or 1 when it could not be started."""
    # A handler, not SIG_IGN: ignored signals stay ignored in the program, handlers are reset for it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    killed_before = oom_kills()
    with open(log, "ab") as out:
        try:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, process_group=0
            )
        except OSError as error:
            write(folder, "exit.json", {"error": error.strerror or str(error), "code": 127})
            say(f"error {error.strerror}")
            return 1
    pids = {"child": child.pid, "keeper": os.getpid()}
    write(folder, "child.json", {who: {"pid": pid, "start": start_time(pid)} for who, pid in pids.items()})
    say(f"started {child.pid}")
    # Not reaped yet, its number and its group's cannot be anybody else's: the last moment to end what it left behind.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    status = child.wait()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    record: dict[str, object] = {"peak_rss": peak}
    if status < 0:
        record |= {"signal": -status, "oom": -status == signal.SIGKILL and oom_kills() > killed_before}
    else:
        record |= {"code": status}
    write(folder, "exit.json", record)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[4:]))
