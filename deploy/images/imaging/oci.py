"""An image in the OCI image layout (v1.1), as a directory and as an archive that containerd, skopeo and podman read."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .tree import Tree

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Layer:
    """Files that are stored and fetched as one."""

    what: str
    tree: Tree


@dataclass(frozen=True)
class Image:
    """Everything that an image says of itself."""

    name: str
    version: str
    architecture: str
    config: dict
    layers: list[Layer]


class Layout:
    """An image as blobs by their digest, and an index."""

    def __init__(self, image: Image, epoch: int) -> None:
        self.blobs: dict[str, bytes] = {}
        created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        layers, digests, history = [], [], []
        for layer in image.layers:
            tar = layer.tree.tar(epoch)
            # Without a name and a time of its own.
            layers.append(self._blob(LAYER, gzip.compress(tar, compresslevel=9, mtime=0)))
            digests.append(f"sha256:{hashlib.sha256(tar).hexdigest()}")
            history.append({"created": created, "created_by": layer.what})
        config = {
            "created": created,
            "architecture": image.architecture,
            "os": "linux",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": digests},
            "history": history,
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._blob(CONFIG, encoded(config)),
            "layers": layers,
            "annotations": image.config["Labels"],
        }
        self.size = sum(layer["size"] for layer in layers)
        described = self._blob(MANIFEST, encoded(manifest))
        self.digest = described["digest"]
        described["platform"] = {"architecture": image.architecture, "os": "linux"}
        described["annotations"] = {
            "org.opencontainers.image.ref.name": image.version,
            # Under which containerd imports it.
            "io.containerd.image.name": f"sealwire.invalid/{image.name}:{image.version}",
        }
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]}
        self.files = {"oci-layout": encoded({"imageLayoutVersion": "1.0.0"}), "index.json": encoded(index)}
        self.files |= {f"blobs/sha256/{digest}": blob for digest, blob in self.blobs.items()}

    def write(self, directory: Path, epoch: int) -> None:
        """Writes the layout as a directory, and beside it as an archive."""
        shutil.rmtree(directory, ignore_errors=True)
        tree = Tree()
        for path, data in self.files.items():
            file = directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            tree.file(path, data)
        directory.with_suffix(".tar").write_bytes(tree.tar(epoch))

    def _blob(self, media_type: str, data: bytes) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def encoded(value: dict) -> bytes:
    """JSON that is the same for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def unpack(layout: Path, directory: Path) -> dict:
    """Unpacks an image's layers, every digest checked, and gives its configuration: for programs that run it."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(layout, index["manifests"][0]))
    config = json.loads(blob(layout, manifest["config"]))
    for layer, digest in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        tar = gzip.decompress(blob(layout, layer))
        if f"sha256:{hashlib.sha256(tar).hexdigest()}" != digest:
            raise ValueError(f"a layer is not {digest}")
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            archive.extractall(directory, filter="tar")
    return config["config"]


def blob(layout: Path, descriptor: dict) -> bytes:
    """A blob, its digest checked."""
    algorithm, digest = descriptor["digest"].split(":")
    data = (layout / "blobs" / algorithm / digest).read_bytes()
    if hashlib.new(algorithm, data).hexdigest() != digest or len(data) != descriptor["size"]:
        raise ValueError(f"a blob is not {descriptor['digest']}")
    return data
