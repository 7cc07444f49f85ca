"""The description of the API in OpenAPI 3.1, from the classes that check the bodies."""

from typing import TypeAlias

from dalle_jax import __version__
from dalle_jax.serve.http.image_bodies import FILES, EditBody, GenerationBody, ImagesBody, VariationBody

Json: TypeAlias = dict[str, object]

_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_USAGE: Json = {
    "type": "object",
    "required": ["input_tokens", "input_tokens_details", "output_tokens", "total_tokens"],
    "properties": {one: {"type": "integer"} for one in ("input_tokens", "output_tokens", "total_tokens")},
}
_IMAGES: Json = {
    "type": "object",
    "required": ["created", "data", "output_format", "size", "usage", "model", "seed", "warnings"],
    "properties": {
        "created": {"type": "integer"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["seed", "candidate", "score"],
                "properties": {
                    "b64_json": {"type": "string"},
                    "url": {"type": "string"},
                    "seed": {"type": "integer"},
                    "candidate": {"type": "integer"},
                    "score": {"type": ["number", "null"]},
                },
            },
        },
        "output_format": {"enum": ["png", "jpeg", "webp", "gif"]},
        "size": {"type": "string"},
        "usage": {"$ref": "#/components/schemas/Usage"},
        "model": {"type": "string"},
        "seed": {"type": "integer"},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
}
_MODEL: Json = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "abilities"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "abilities": {"type": "object"},
        "defaults": {"type": "object"},
    },
}


def openapi_document() -> Json:
    """Return the description of all routes."""
    schemas: Json = {"Error": _ERROR, "Usage": _USAGE, "Images": _IMAGES, "Model": _MODEL}
    for kind in FILES:
        schemas |= _schemas_of(kind)
    models: Json = {"type": "object", "properties": {"data": {"type": "array", "items": _ref("Model")}}}
    name: Json = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    file = [name] + [
        {"name": one, "in": "query", "required": True, "schema": {"type": "string"}} for one in ("expires", "signature")
    ]
    paths: Json = {
        "/v1/images/generations": {"post": _drawing(GenerationBody, "application/json", "Draw a prompt")},
        "/v1/images/edits": {"post": _drawing(EditBody, "multipart/form-data", "Change images by a prompt")},
        "/v1/images/variations": {"post": _drawing(VariationBody, "multipart/form-data", "Vary an image")},
        "/v1/models": {"get": _reading("List the loaded models", "application/json", models)},
        "/v1/models/{name}": {
            "get": _reading("Describe a model", "application/json", _ref("Model"), [name], missing=True)
        },
        "/files/{name}": {"get": _reading("Download an image", "image/*", {}, file, missing=True, is_open=True)},
        "/healthz": {"get": _reading("Tell that the server lives", "application/json", {}, is_open=True)},
        "/readyz": {"get": _reading("Tell if requests are taken", "application/json", {}, is_open=True, busy=True)},
        "/metrics": {"get": _reading("Measure", "text/plain", {"type": "string"})},
        "/openapi.json": {"get": _reading("Describe the API", "application/json", {}, is_open=True)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "dalle_jax", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas_of(kind: type[ImagesBody]) -> Json:
    """Return the schema of a body, with its files, and those that it refers to."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    found: Json = schema.pop("$defs", {})
    if FILES[kind]:  # a form has texts, and leaves out what would be null
        for field in schema["properties"].values():
            field.pop("default", None)
            if choices := [one for one in field.pop("anyOf", ()) if one != {"type": "null"}]:
                field["anyOf"] = choices
    for name, most in FILES[kind].items():
        one: Json = {"type": "string", "format": "binary"}
        schema["properties"][name] = one if most == 1 else {"type": "array", "items": one, "maxItems": most}
    if "image" in FILES[kind]:
        schema["required"] = [*schema.get("required", []), "image"]
    return found | {kind.__name__: schema}


def _responses(*statuses: int) -> Json:
    error: Json = {"description": "An error", "content": {"application/json": {"schema": _ref("Error")}}}
    return {str(status): error for status in statuses}


def _drawing(kind: type[ImagesBody], media_type: str, summary: str) -> Json:
    content: Json = {"application/json": {"schema": _ref("Images")}}
    if kind is not VariationBody:
        content["text/event-stream"] = {"schema": {}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {media_type: {"schema": _ref(kind.__name__)}}},
        "responses": {"200": {"description": "Images", "content": content}}
        | _responses(400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 504),
    }


def _reading(
    summary: str, media_type: str, schema: Json, parameters: list[Json] | None = None, *, missing: bool = False,
    is_open: bool = False, busy: bool = False,
) -> Json:  # fmt: skip
    statuses = [400, 403, *([] if is_open else [401]), *([404] if missing else [])]
    found: Json = {
        "summary": summary,
        "responses": {"200": {"description": "Found", "content": {media_type: {"schema": schema}}}}
        | _responses(*statuses),
    }
    if busy:
        found["responses"] = found["responses"] | {"503": {"description": "Not ready"}}  # type: ignore[operator]
    return found if parameters is None else found | {"parameters": parameters}
