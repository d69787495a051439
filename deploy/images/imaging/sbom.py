"""An image's bill of materials in SPDX 2.3: Debian's packages, the crates linked into its programs, and what they are in."""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import quote

from .cargo import Crate
from .debian import Package
from .oci import encoded


def document(name: str, version: str, packages: Iterable[Package], crates: list[Crate], epoch: int) -> dict:
    """The document. The same contents give the same bytes, its namespace included."""
    image = {
        "SPDXID": "SPDXRef-image",
        "name": f"sealwire-{name}",
        "versionInfo": version,
        "primaryPackagePurpose": "CONTAINER",
        "licenseDeclared": "Apache-2.0",
    }
    parts = [debian(package) for package in packages] + [rust(crate) for crate in crates]
    described = [*map(complete, (image, *parts))]
    relations = [relation("SPDXRef-DOCUMENT", "DESCRIBES", image["SPDXID"])]
    relations += [relation(image["SPDXID"], "CONTAINS", part["SPDXID"]) for part in parts]
    contents = sha256(encoded({"packages": described})).hexdigest()
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"sealwire-{name}-{version}",
        "documentNamespace": f"https://sealwire.invalid/sbom/{name}/{version}/{contents}",
        "creationInfo": {
            "created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: sealwire-images"],
        },
        "packages": described,
        "relationships": relations,
    }


def debian(package: Package) -> dict:
    """A Debian package. Its licence is in the image, as Debian states it."""
    version = quote(package.version, safe="")
    return {
        "SPDXID": f"SPDXRef-deb-{safe(package.name)}",
        "name": package.name,
        "versionInfo": package.version,
        "supplier": "Organization: Debian",
        "licenseDeclared": "NOASSERTION",
        "licenseComments": f"/usr/share/doc/{package.name}/copyright in the image",
        "checksums": [{"algorithm": "SHA256", "checksumValue": package.sha256}],
        "externalRefs": [purl(f"pkg:deb/debian/{quote(package.name, safe='')}@{version}?arch={package.architecture}")],
    }


def rust(crate: Crate) -> dict:
    """A crate; one without a checksum is of this workspace."""
    described = {
        "SPDXID": f"SPDXRef-crate-{safe(crate.name)}-{safe(crate.version)}",
        "name": crate.name,
        "versionInfo": crate.version,
        "licenseDeclared": crate.licence or "NOASSERTION",
        "externalRefs": [purl(f"pkg:cargo/{crate.name}@{quote(crate.version, safe='')}")],
    }
    if crate.checksum is not None:
        described["checksums"] = [{"algorithm": "SHA256", "checksumValue": crate.checksum}]
        described["downloadLocation"] = f"https://crates.io/api/v1/crates/{crate.name}/{crate.version}/download"
    return described


def complete(package: dict) -> dict:
    """Adds what SPDX wants said of each package."""
    return {
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        **package,
    }


def relation(one: str, kind: str, other: str) -> dict:
    """One element's relation to another."""
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def purl(locator: str) -> dict:
    """How scanners look a package up."""
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}


def safe(text: str) -> str:
    """Text as an SPDX identifier may have it."""
    return "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in text)
