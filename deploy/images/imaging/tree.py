"""Files of an image: collected in memory, then written as a tar archive that is the same whenever the files are."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath


class ImageError(Exception):
    """Something that keeps an image from being built; the message says what to do."""


@dataclass(frozen=True)
class Entry:
    """One file (`data`), symbolic link (`target`) or directory (neither). All belong to root."""

    mode: int
    data: bytes | None = None
    target: str | None = None


class Tree:
    """Entries by path, without a leading slash. `/lib` and the like are links into `/usr`, as Debian has it."""

    MERGED = ("bin", "sbin", "lib", "lib64")

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Adds a file. Nothing is ever writable by others, nor runs as its owner."""
        self._add(path, Entry(0o755 if mode & 0o111 else 0o644, data=data))

    def link(self, path: str, target: str) -> None:
        """Adds a symbolic link."""
        self._add(path, Entry(0o777, target=target))

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Adds a directory, which may be there already."""
        if path not in self.entries:
            self._add(path, Entry(mode))

    def files(self) -> dict[str, bytes]:
        """The contents of all files."""
        return {path: entry.data for path, entry in self.entries.items() if entry.data is not None}

    def tar(self, epoch: int) -> bytes:
        """The archive: sorted, one time, one owner, no names of users."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, entry in sorted(self.entries.items()):
                info = tarfile.TarInfo(path)
                info.mode, info.mtime = entry.mode, epoch
                if entry.data is not None:
                    info.size = len(entry.data)
                    archive.addfile(info, io.BytesIO(entry.data))
                    continue
                info.type = tarfile.DIRTYPE if entry.target is None else tarfile.SYMTYPE
                info.linkname = entry.target or ""
                archive.addfile(info)
        return out.getvalue()

    def _add(self, path: str, entry: Entry) -> None:
        path = merged(path)
        there = self.entries.get(path)
        if there is not None and there != entry:
            raise ImageError(f"/{path} would be two different things: correct images.toml")
        for parent in list(PurePosixPath(path).parents)[-2::-1]:
            self.entries.setdefault(str(parent), Entry(0o755))
        self.entries[path] = entry


def merged(path: str) -> str:
    """Where a path is once `/bin`, `/sbin` and `/lib*` are links into `/usr`."""
    path = str(PurePosixPath(path))
    first = path.split("/", 1)[0]
    return f"usr/{path}" if first in Tree.MERGED and path != first else path
