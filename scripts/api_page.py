"""docs/reference/api.md from the OpenAPI document of `/v1`: every route, every field of its body and of its answer."""

from typing import Any

from fastapi import FastAPI


def api_page() -> list[str]:
    """The page's parts."""
    from wuya.web.api.routes import v1

    app = FastAPI()
    app.include_router(v1)
    document = app.openapi()
    schemas = document["components"]["schemas"]
    parts = ["# API", "Routes of `/v1` and their bodies; how to use them is in the [guide](../guides/api.md)."]
    rows = ["| route | what it does | body | answer |", "| --- | --- | --- | --- |"]
    for path, item in sorted(document["paths"].items()):
        for method, operation in item.items():
            asked = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            given = operation["responses"]["200"]["content"]["application/json"]["schema"]
            body = _type(asked) if asked else ""
            rows.append(f"| `{method.upper()} {path}` | {operation['description']} | {body} | {_type(given)} |")
    parts.append("\n".join(rows))
    for name in sorted(schemas):
        if name in ("HTTPValidationError", "ValidationError") or schemas[name].get("type") != "object":
            continue
        parts += [f"## {name}", schemas[name].get("description", ""), _fields(schemas[name])]
    return [part for part in parts if part]


def _fields(schema: dict[str, Any]) -> str:
    rows = ["| field | type | needed |", "| --- | --- | --- |"]
    for name, field in schema.get("properties", {}).items():
        needed = "yes" if name in schema.get("required", ()) else ""
        note = f"; {field['description']}" if field.get("description") else ""
        rows.append(f"| `{name}` | {_type(field)}{note} | {needed} |")
    return "\n".join(rows)


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    if "enum" in schema:
        return ", ".join(f'`"{value}"`' for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}{_bounds(schema, 'minItems', 'maxItems')}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    limits = _bounds(schema, "minimum", "maximum") or _bounds(schema, "exclusiveMinimum", "exclusiveMaximum")
    return str(kind) + (limits or _bounds(schema, "minLength", "maxLength"))


def _bounds(schema: dict[str, Any], low: str, high: str) -> str:
    least, most = schema.get(low), schema.get(high)
    if least is None and most is None:
        return ""
    if least is None:
        return f" (at most {most:,})"
    return f" ({least:,} to {most:,})" if most is not None else f" (at least {least:,})"
