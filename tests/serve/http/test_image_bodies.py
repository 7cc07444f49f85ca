"""The bodies know every field of the package openai, and check their ranges."""

from typing import Literal, get_args, get_type_hints

import pytest
from openai.types import ImageCreateVariationParams, ImageModel
from openai.types.image_edit_params import ImageEditParamsNonStreaming, ImageEditParamsStreaming
from openai.types.image_generate_params import ImageGenerateParamsNonStreaming, ImageGenerateParamsStreaming

from dalle_jax.serve.http.api_errors import ApiError
from dalle_jax.serve.http.image_bodies import FILES, EditBody, GenerationBody, VariationBody
from dalle_jax.serve.http.model_choice import ALIASES
from dalle_jax.serve.http.openapi import openapi_document
from dalle_jax.serve.http.request_bodies import validated

PARAMETERS = [
    (GenerationBody, ImageGenerateParamsNonStreaming),
    (GenerationBody, ImageGenerateParamsStreaming),
    (EditBody, ImageEditParamsNonStreaming),
    (EditBody, ImageEditParamsStreaming),
    (VariationBody, ImageCreateVariationParams),
]


def choices(annotation) -> set[str]:
    """Return the strings that a type allows by name."""
    if getattr(annotation, "__origin__", None) is Literal:
        return {one for one in get_args(annotation) if isinstance(one, str)}
    return set().union(*map(choices, get_args(annotation)))


@pytest.mark.parametrize(("body", "parameters"), PARAMETERS)
def test_every_field_of_the_package_openai_is_known(body, parameters):
    names = set(get_type_hints(parameters))
    assert len(names) > 5
    assert names <= {*body.model_fields, *FILES[body]}


@pytest.mark.parametrize(("body", "parameters"), PARAMETERS)
def test_every_choice_of_the_package_openai_is_a_value_that_is_understood(body, parameters):
    for name, annotation in get_type_hints(parameters).items():
        for value in choices(annotation) if name in body.model_fields and name != "svg" else ():
            given = {"prompt": "a"} | {name: value}
            assert getattr(validated(body, given), name) == value


def test_every_model_of_the_package_openai_stands_for_a_loaded_one():
    assert set(get_args(ImageModel)) <= set(ALIASES)


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": "a", "foo": 1}, "foo", "unknown_parameter"),
        ({"prompt": "a", "n": 0}, "n", "invalid_value"),
        ({"prompt": "a", "n": 11}, "n", "invalid_value"),
        ({"prompt": "a", "n": "2"}, "n", "invalid_value"),
        ({"prompt": "a", "n": 2.5}, "n", "invalid_value"),
        ({"prompt": "a", "n": True}, "n", "invalid_value"),
        ({"prompt": "a" * 32_001}, "prompt", "invalid_value"),
        ({"prompt": 3}, "prompt", "invalid_value"),
        ({"prompt": "a", "size": "1x"}, "size", "invalid_value"),
        ({"prompt": "a", "size": "0x8"}, "size", "invalid_value"),
        ({"prompt": "a", "size": "8x8\n"}, "size", "invalid_value"),
        ({"prompt": "a", "guidance": float("nan")}, "guidance", "invalid_value"),
        ({"prompt": "a", "guidance": float("inf")}, "guidance", "invalid_value"),
        ({"prompt": "a", "seed": 2**32}, "seed", "invalid_value"),
        ({"prompt": "a", "seed": -1}, "seed", "invalid_value"),
        ({"prompt": "a", "partial_images": 4}, "partial_images", "invalid_value"),
        ({"prompt": "a", "output_compression": 101}, "output_compression", "invalid_value"),
        ({"prompt": "a", "quality": "best"}, "quality", "invalid_value"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_its_field(given, param, code):
    with pytest.raises(ApiError) as caught:
        validated(GenerationBody, given)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_null_is_the_default_as_in_the_api():
    every = dict.fromkeys(GenerationBody.model_fields)
    assert validated(GenerationBody, every | {"prompt": "a"}) == validated(GenerationBody, {"prompt": "a"})


def test_numbers_and_booleans_of_a_form_are_texts():
    body = validated(EditBody, {"prompt": "a", "n": "2", "stream": "true", "guidance": "1.5"}, strings=True)
    assert (body.n, body.stream, body.guidance) == (2, True, 1.5)


def test_an_error_shows_no_more_than_the_beginning_of_a_value():
    with pytest.raises(ApiError) as caught:
        validated(GenerationBody, {"prompt": "secret" * 10_000})
    assert len(caught.value.body["error"]["message"]) < 200


def test_the_description_of_the_api_has_the_fields_and_files_of_each_body():
    schemas = openapi_document()["components"]["schemas"]
    for body, files in FILES.items():
        assert set(schemas[body.__name__]["properties"]) == {*body.model_fields, *files}
        assert ("null" in str(schemas[body.__name__])) == (not files)  # a form has no null
