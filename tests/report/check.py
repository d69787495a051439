"""Has others' tools judge the files of a report: trestle, NIST's schema of OSCAL, CycloneDX's schema, DuckDB.

usage: check.py REPORT EXPORT.parquet EXPORT.jsonl NIST-SCHEMA. Ends with 1 at the first that does not agree.
"""

import csv
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import duckdb
import jsonschema
import regex
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

report, parquet, jsonl, nist = (pathlib.Path(argument).resolve() for argument in sys.argv[1:5])
trestle = pathlib.Path(sys.executable).with_name("trestle")


def say(what):
    print(f"  ok  {what}", flush=True)


def run(*command, cwd=None):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def with_trestle():
    """A workspace, as trestle wants it; its verify, which must refuse a changed document too."""
    with tempfile.TemporaryDirectory() as place:
        run(trestle, "init", cwd=place)
        run(trestle, "import", "-f", report / "assessment-results.json", "-o", "report", cwd=place)
        said = run(trestle, "validate", "-t", "assessment-results", "-n", "report", cwd=place)
        assert "INVALID" not in said, said
        say("trestle validate")
        verify = [
            trestle, "verify", "--beta", "--signature", report / "assessment-results.json.sig",
            "--public-key", report / "signer.pem",
        ]
        run(*verify, "-f", report / "assessment-results.json")
        changed = pathlib.Path(place) / "changed" / "assessment-results.json"
        changed.parent.mkdir()
        text = (report / "assessment-results.json").read_text()
        assert "not-satisfied" in text
        changed.write_text(text.replace("not-satisfied", "satisfied", 1))
        refused = subprocess.run([*verify, "-f", changed], capture_output=True)
        assert refused.returncode != 0, "trestle verify takes a changed document"
        say("trestle verify, which refuses a changed document")


def with_schemas():
    document = json.loads((report / "assessment-results.json").read_text())
    # NIST's patterns use properties of Unicode, which Python's own expressions do not know.
    def pattern(validator, expression, instance, schema):
        if validator.is_type(instance, "string") and not regex.search(expression, instance):
            yield jsonschema.ValidationError(f"{instance!r} is not {expression!r}")

    validator = jsonschema.validators.extend(jsonschema.Draft7Validator, {"pattern": pattern})
    errors = list(validator(json.loads(nist.read_text())).iter_errors(document))
    assert not errors, errors[:3]
    # A schema that takes everything would be no proof.
    document["assessment-results"]["results"][0]["findings"][0]["target"]["status"]["state"] = "perhaps"
    assert list(validator(json.loads(nist.read_text())).iter_errors(document))
    say("NIST's JSON schema of OSCAL assessment results")

    text = (report / "cbom.json").read_text()
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert errors is None, errors
    references = {component["bom-ref"] for component in json.loads(text)["components"]}
    for component in json.loads(text)["components"]:
        for name in referred(component["cryptoProperties"]):
            assert name in references, f"{component['bom-ref']} refers to {name}, which is not there"
    say("CycloneDX's JSON schema, and every reference in it leads somewhere")


def referred(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key.endswith("Ref") and isinstance(inner, str):
                yield inner
            elif key in ("algorithms", "cryptoRefArray"):
                yield from inner
            else:
                yield from referred(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from referred(inner)


def with_duckdb():
    with (report / "links.csv").open() as file:
        links = list(csv.DictReader(file))
    columns = ("opened", "resumed", "closed", "failed", "bytes_sent", "bytes_received")
    told = tuple(sum(int(row[column]) for row in links) for column in columns)
    assert told[0] > 0
    with (report / "exceptions.csv").open() as file:
        passed = sum(int(row["connections"]) for row in csv.DictReader(file))
    with (report / "bytes.csv").open() as file:
        kernel = tuple(map(sum, zip(*((int(row["kernel_sent"]), int(row["kernel_received"])) for row in csv.DictReader(file)))))
    assert kernel[0] > 0
    for source in (f"read_parquet('{parquet}')", f"read_json('{jsonl}', format = 'newline_delimited')"):
        # A month has the windows that end in it.
        november = """ "to"::timestamptz <= '2026-12-01T00:00:00Z'::timestamptz"""
        found = duckdb.sql(
            f"""select sum(opened), sum(opened) filter (where resumed), sum(closed), sum(failed), sum(bytes_sent),
            sum(bytes_received) from {source} where kind = 'link' and signed and {november}"""
        ).fetchall()[0]
        found = tuple(int(value or 0) for value in found)
        assert found == told, (source, found, told)
        by_exception = duckdb.sql(
            f"select sum(closed) from {source} where kind = 'exception' and {november}"
        ).fetchall()[0][0]
        assert int(by_exception or 0) == passed, (source, by_exception, passed)
        counted = duckdb.sql(
            f"""select sum(kernel_bytes_sent), sum(kernel_bytes_received) from {source}
            where kind = 'window' and signed and {november}"""
        ).fetchall()[0]
        assert tuple(map(int, counted)) == kernel, (source, counted, kernel)
        first = duckdb.sql(f'select min("from") from {source} where kind = \'window\'').fetchall()[0][0]
        assert first is not None
    say(f"DuckDB's sums over the export equal the report's: {told[0]} connections, {told[4] + told[5]} bytes, {sum(kernel)} by the kernel")


with_trestle()
with_schemas()
with_duckdb()
