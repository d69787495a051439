"""Programs and the crates in them, by Cargo."""

import json
import os
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .tree import ImageError


@dataclass(frozen=True)
class Crate:
    """A crate that is linked into a program."""

    name: str
    version: str
    licence: str
    checksum: str | None


class Cargo:
    """Cargo in this checkout, with one profile.

    Programs of the release profile say nothing of where they were built; those of the profile dev do, and share the
    target directory with everything else: for development alone.
    """

    def __init__(self, root: Path, profile: str) -> None:
        self.root, self.profile = root, profile
        # Libraries in C are built anew when it changes, and none of them asks what time it is (see below).
        self.environment = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
        self.target = root / "target"
        if profile == "release":
            self.target = root / "target/images/cargo"
            homes = {
                root: "/sealwire",
                Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")): "/cargo",
            }
            self.environment |= {
                "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(f"--remap-path-prefix={a}={b}" for a, b in homes.items()),
                "CFLAGS": " ".join(["-Werror=date-time", *(f"-ffile-prefix-map={a}={b}" for a, b in homes.items())]),
                "CARGO_INCREMENTAL": "0",
            }
        self.locked = {
            (each["name"], each["version"]): each.get("checksum")
            for each in tomllib.loads((root / "Cargo.lock").read_text())["package"]
        }

    def build(self, crates: list[str]) -> None:
        """Builds the programs of crates: together, so that what they share is built once."""
        packages = [argument for crate in crates for argument in ("-p", crate)]
        if packages:
            self._run("build", "--bins", "--lib", *packages)

    def build_static(self, crate: str) -> None:
        """Builds the program of a crate so that it stands alone.

        Only the last step differs: Rust's standard library links with either form of the C library.
        """
        self._run("rustc", "-p", crate, "--bin", crate, "--", "-C", "target-feature=+crt-static")

    def program(self, name: str) -> Path:
        """Where a program or library was put."""
        path = self.target / ("debug" if self.profile == "dev" else self.profile) / name
        if not path.exists():
            raise ImageError(f"{path} was not built: is it a program of the crate that images.toml names?")
        return path

    def crates(self, package: str) -> list[Crate]:
        """The crates that are linked into the programs of a package, itself among them."""
        listed = subprocess.run(
            ["cargo", "tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none", "-f", "{p}|{l}"],
            cwd=self.root, check=True, capture_output=True, text=True,
        )  # fmt: skip
        found = {}
        for line in filter(None, listed.stdout.splitlines()):
            which, licence = line.removesuffix(" (*)").split("|")
            name, version = which.split()[:2]
            version = version.removeprefix("v")
            if "(proc-macro)" not in which:
                found[name, version] = Crate(name, version, licence.replace("/", " OR "), self.locked[name, version])
        return [found[key] for key in sorted(found)]

    def version(self, package: str) -> str:
        """The version of a package of this workspace."""
        metadata = subprocess.run(
            ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"],
            cwd=self.root, check=True, capture_output=True, text=True,
        )  # fmt: skip
        versions = {each["name"]: each["version"] for each in json.loads(metadata.stdout)["packages"]}
        if package not in versions:
            raise ImageError(f"there is no crate {package} in this workspace: correct images.toml")
        return versions[package]

    def _run(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            ["cargo", command, "--locked", "--profile", self.profile, "--target-dir", self.target, *arguments],
            cwd=self.root,
            env=self.environment,
        )
        if done.returncode != 0:
            raise ImageError(f"cargo {command} failed")
