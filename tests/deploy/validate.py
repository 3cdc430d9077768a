"""Checks Kubernetes objects against their schemas: validate.py KUBERNETES_VERSION <objects.yaml

Kubernetes' own kinds by kubernetes-validate, strictly; the kinds in crds/ by the schema of their definition, in which
unknown fields are refused as well. An object without a schema is an error. Prints every error, exits with 1.
"""

import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

CRDS = pathlib.Path(__file__).parent / "crds"


def strict(schema):
    """`schema` as JSON schema that knows no other fields than those that it names."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def custom_schemas():
    """The schemas in crds/ by apiVersion and kind."""
    schemas = {}
    for path in CRDS.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            # Kubernetes knows what metadata is; a definition only says that it is there.
            schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            schemas[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = strict(schema)
    return schemas


def errors(item, version, custom):
    kind = item["apiVersion"], item["kind"]
    if kind in custom:
        for error in jsonschema.Draft202012Validator(custom[kind]).iter_errors(item):
            yield f"{'.'.join(map(str, error.path))}: {error.message}"
        return
    try:
        # It takes the next older schemas where it has none of this version.
        found = kubernetes_validate.validate(item, version, strict=True)
        if found != version:
            yield f"there are no schemas of Kubernetes {version}, only of {found}"
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield error.message


def main(version: str) -> None:
    custom = custom_schemas()
    items = [item for item in yaml.safe_load_all(sys.stdin) if item]
    if not items:
        sys.exit("there is no object")
    found = [f"{item['kind']}/{item['metadata']['name']}: {error}" for item in items for error in errors(item, version, custom)]
    sys.exit("\n".join(found) or 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
