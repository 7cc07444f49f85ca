"""Errors in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``."""

import json
import re

from starlette.responses import JSONResponse, Response

from dalle_jax.config.errors import UserError

MOST_OF_A_MESSAGE = 600
"""Longest message, so that an error never returns a whole prompt."""

_FIELD = re.compile(r"^([a-z_]{1,30}): ")


class ApiError(Exception):
    """An answer that is an error. ``retry`` says if the client should try again, ``after`` when, in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        retry: bool = False,
        after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.kind, self.retry, self.after = status, param, code, kind, retry, after

    @property
    def body(self) -> dict[str, object]:
        """The JSON of the error."""
        message = str(self)[:MOST_OF_A_MESSAGE]
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the answer."""
        headers = {"x-should-retry": "true" if self.retry else "false", "cache-control": "no-store"}
        if self.after is not None:
            headers["retry-after"] = str(self.after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)

    def event(self) -> bytes:
        """Return the error as an event of a stream."""
        return f"event: error\ndata: {json.dumps(self.body)}\n\n".encode()


def of_user_error(error: UserError) -> ApiError:
    """Return the 400 of an error that the request's values caused; its message opens with the field."""
    named = _FIELD.match(str(error))
    return ApiError(400, str(error), param=None if named is None else named[1], code="invalid_value")


def refused(field: str, message: str, code: str = "unsupported_value") -> ApiError:
    """Return the 400 of a field that no model, or not this one, can honour."""
    return ApiError(400, f"{field}: {message}", param=field, code=code)


def internal() -> ApiError:
    """Return the 500 of a fault of this server; it says nothing about the cause."""
    return ApiError(500, "the server had an error; its log names it by x-request-id", kind="server_error")
