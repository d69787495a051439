"""Whether an image is whole: every program and library finds what it was linked with, every link leads to something."""

import platform
import posixpath
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from .tree import ImageError, Tree, merged

NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
INTERPRETER = re.compile(r"program interpreter: (/.+)\]")


def check(tree: Tree, extra: list[str]) -> None:
    """Raises where a library is missing. `extra` are directories that the image's environment adds to the search."""
    directories = [merged(directory.strip("/")) for directory in extra]
    directories += [f"usr/lib/{platform.machine()}-linux-gnu", "usr/lib", "usr/lib64"]
    there = set(tree.entries)
    for path, entry in tree.entries.items():
        if entry.target is not None and destination(path, entry.target) not in there:
            raise ImageError(f"/{path} leads to {entry.target}, which is not in the image")
    for path, data in tree.files().items():
        if not data.startswith(b"\x7fELF"):
            continue
        interpreters, libraries = needs(data)
        missing = [library for library in libraries if not any(f"{each}/{library}" in there for each in directories)]
        missing += [interpreter for interpreter in interpreters if merged(interpreter.lstrip("/")) not in there]
        if missing:
            raise ImageError(f"/{path} needs {', '.join(missing)}, not in the image: name the package in images.toml")


def destination(path: str, target: str) -> str:
    """Where a symbolic link leads."""
    return merged(posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target)).lstrip("/"))


def needs(data: bytes) -> tuple[list[str], list[str]]:
    """The interpreters and libraries that a program or library names."""
    with TemporaryDirectory() as work:
        copy = Path(work, "object")
        copy.write_bytes(data)
        listed = subprocess.run(["readelf", "-dlW", copy], check=True, capture_output=True, text=True).stdout
    return INTERPRETER.findall(listed), NEEDED.findall(listed)


def strip(program: Path) -> bytes:
    """A program without its symbols."""
    with TemporaryDirectory() as work:
        copy = Path(work, "object")
        subprocess.run(["strip", "--strip-all", "-o", copy, program], check=True)
        return copy.read_bytes()
