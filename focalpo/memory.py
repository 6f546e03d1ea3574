"""How much memory a process has held."""

from pathlib import Path


def resident_peak() -> int:
    """Bytes of this process's resident set at its largest so far.

    Not getrusage: its maximum begins with what the parent held when it started this process.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
