"""docs/images.md: the part of it that is made from what was built."""

import re
from dataclasses import dataclass
from pathlib import Path

from .debian import Package
from .tree import Tree


@dataclass(frozen=True)
class Built:
    """An image that was built."""

    size: int
    tree: Tree
    packages: list[Package]
    config: dict


def write(path: Path, profile: str, described: dict, built: dict[str, Built]) -> None:
    """Replaces the made part of the page."""
    text = path.read_text()
    made = f"Programs of the profile `{profile}`.\n\n{table(built)}"
    made += "".join(section(name, described["images"][name], image) for name, image in built.items())
    fresh = re.sub(
        r"(<!-- images: begin -->\n).*(<!-- images: end -->)",
        lambda match: f"{match[1]}{made}\n{match[2]}",
        text,
        flags=re.DOTALL,
    )
    path.write_text(fresh)


def table(built: dict[str, Built]) -> str:
    """All images at a glance."""
    rows = [
        f"| {name} | {image.size / 1e6:.1f} MB | {sum(map(len, image.tree.files().values())) / 1e6:.1f} MB "
        f"| {len(image.tree.files())} | {len(image.packages)} | {image.config['User']} |\n"
        for name, image in built.items()
    ]
    return "| image | to fetch | unpacked | files | Debian packages | user |\n|---|---|---|---|---|---|\n" + "".join(rows)


def section(name: str, described: dict, image: Built) -> str:
    """One image: how it starts, and every file but the licences and the scanners' entries, which go with each package."""
    files = sorted(path for path in image.tree.files() if not path.startswith(("usr/share/doc/", "var/lib/dpkg/")))
    links = sum(entry.target is not None for entry in image.tree.entries.values())
    packages = ", ".join(package.name for package in image.packages) or "none"
    listed = "\n".join(f"/{path}" for path in files)
    return (
        f"\n### `{name}`\n\n{described['about']}. Starts `{' '.join(image.config['Entrypoint'])}`. "
        f"Debian packages: {packages}.\n\n<details><summary>{len(files)} files, {links} symbolic links</summary>\n\n"
        f"```\n{listed}\n```\n\n</details>\n"
    )
