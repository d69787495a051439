"""Debian's packages: fetched by apt, which verifies them, held against `packages.lock`, and taken apart file by file."""

import hashlib
import io
import os
import subprocess
import tarfile
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

from .tree import ImageError, Tree

HEADER = """\
# The Debian packages that images are made of. Written by `deploy/images/build --update`, which takes the newest that apt
# knows; commit what it writes.
"""


@dataclass(frozen=True)
class Package:
    """A package as the lock file names it."""

    name: str
    version: str
    architecture: str
    sha256: str


class Store:
    """Packages on this machine, by their hash."""

    def __init__(self, lock: Path, directory: Path) -> None:
        self.lock, self.directory = lock, directory
        text = tomllib.loads(lock.read_text()) if lock.exists() else {}
        self.packages = {each["name"]: Package(**each) for each in text.get("package", [])}

    def update(self, names: list[str]) -> None:
        """Locks the newest version of each package that apt knows."""
        fresh = sorted((self._download(name) for name in names), key=lambda package: package.name)
        entries = [
            f'\n[[package]]\nname = "{each.name}"\nversion = "{each.version}"\n'
            f'architecture = "{each.architecture}"\nsha256 = "{each.sha256}"\n'
            for each in fresh
        ]
        self.lock.write_text(HEADER + "".join(entries))
        self.packages = {package.name: package for package in fresh}

    def get(self, name: str) -> "Archive":
        """A package, exactly as it is locked."""
        locked = self.packages.get(name)
        if locked is None:
            raise ImageError(f"{name} is not in {self.lock.name}: run deploy/images/build --update")
        path = self.directory / f"{locked.sha256}.deb"
        if not path.exists():
            found = self._download(f"{name}:{locked.architecture}={locked.version}")
            if found != locked:
                raise ImageError(
                    f"{name} {locked.version} has hash {found.sha256}, but {self.lock.name} says {locked.sha256}: "
                    "this is not the package that was reviewed"
                )
        return Archive(locked, path)

    def _download(self, wanted: str) -> Package:
        self.directory.mkdir(parents=True, exist_ok=True)
        # As root apt would fetch as a user that may not write here.
        sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        with TemporaryDirectory(dir=self.directory) as work:
            done = subprocess.run(
                ["apt-get", "-q", *sandbox, "download", wanted], cwd=work, capture_output=True, text=True
            )
            found = list(Path(work).glob("*.deb"))
            if done.returncode != 0 or len(found) != 1:
                raise ImageError(
                    f"apt-get download {wanted}: {done.stderr.strip()}\n"
                    "Run apt-get update. Where the archive has moved on to a newer version, lock that one "
                    "(deploy/images/build --update), or take the old one from snapshot.debian.org"
                )
            fields = subprocess.run(
                ["dpkg-deb", "--show", "--showformat=${Package}\n${Version}\n${Architecture}", found[0]],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            sha256 = hashlib.sha256(found[0].read_bytes()).hexdigest()
            found[0].rename(self.directory / f"{sha256}.deb")
        name, version, architecture = fields.stdout.split("\n")
        return Package(name, version, architecture, sha256)


@dataclass(frozen=True)
class Archive:
    """A package that is at hand."""

    package: Package
    path: Path

    def extract(self, tree: Tree, patterns: list[str], to: str | None) -> None:
        """Copies the files and links that a pattern names, its licence, and its entry for scanners of images."""
        name = self.package.name
        licences = {f"usr/share/doc/{name}/copyright", f"usr/share/doc/{name}"}
        unused, licensed = set(patterns), False
        files = subprocess.run(["dpkg-deb", "--fsys-tarfile", self.path], check=True, capture_output=True)
        with tarfile.open(fileobj=io.BytesIO(files.stdout)) as archive:
            for member in archive:
                path = member.name.removeprefix("./")
                matching = {pattern for pattern in patterns if fnmatchcase(path, pattern)}
                # Packages of one source may share the licence of one of them, by a link to its directory.
                licence = path in licences and not member.isdir()
                if member.isdir() or not (matching or licence):
                    continue
                unused -= matching
                licensed |= licence
                if matching and to is not None:
                    path = f"{to}/{path.rsplit('/', 1)[1]}"
                if member.issym():
                    tree.link(path, member.linkname)
                elif member.isfile():
                    tree.file(path, archive.extractfile(member).read(), member.mode)
                else:
                    raise ImageError(f"{name} has /{path}, which is neither a file nor a symbolic link")
        if unused:
            raise ImageError(f"{name} has nothing like {', '.join(sorted(unused))}: correct images.toml")
        if not licensed:
            raise ImageError(f"{name} has no licence in /usr/share/doc/{name}")
        control = subprocess.run(["dpkg-deb", "--field", self.path], check=True, capture_output=True)
        # Where images without dpkg say what they hold; scanners look there.
        tree.file(f"var/lib/dpkg/status.d/{name}", control.stdout)
