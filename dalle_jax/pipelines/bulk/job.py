"""The manifest of a bulk job: the inputs that determine its images, and its shards."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TypeAlias

from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.bulk.prompt_files import Survey
from dalle_jax.storage import Place
from dalle_jax.untrusted import parse_object, read_file

FORMAT, VERSION = "dalle_jax bulk sampling", 1
MANIFEST = "manifest.json"
MOST_IMAGES = 10_000
"""Largest number of images in a shard, since a key ends in four digits."""

Option: TypeAlias = str | int | float | None


@dataclass(frozen=True)
class BulkJob:
    """The inputs of a job. Folders with different values have different images.

    - ``models``: a fingerprint of each model.
    - ``prompts`` and ``prompts_sha256``: the number of prompts, and a hash of all rows of the prompts files.
    - ``options``: the options of rows without options of their own.
    - ``shard_prompts``: the number of prompts of a shard; the last shard may have fewer.
    """

    models: Mapping[str, str]
    prompts: int
    prompts_sha256: str
    options: Mapping[str, Option]
    shard_prompts: int

    @classmethod
    def of(
        cls, survey: Survey, models: Mapping[str, str], options: Mapping[str, Option], shard_prompts: int
    ) -> "BulkJob":
        """Return the job of a survey. Raise UserError if a shard would have too many images."""
        most = MOST_IMAGES // survey.most_kept
        if not 1 <= shard_prompts <= most:
            raise UserError(
                f"shard_prompts: expected 1 to {most} prompts in a shard, since a prompt keeps up to "
                f"{survey.most_kept} images and a shard has at most {MOST_IMAGES:,}, got {shard_prompts}"
            )
        return cls(dict(models), survey.prompts, survey.sha256, dict(options), shard_prompts)

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.prompts // self.shard_prompts)

    def shard_of(self, prompt: int) -> int:
        """Return the shard that holds a prompt."""
        return prompt // self.shard_prompts

    def shard_size(self, shard: int) -> int:
        """Return the number of prompts of a shard."""
        return min(self.shard_prompts, self.prompts - shard * self.shard_prompts)

    def to_json(self) -> bytes:
        """Encode the manifest as JSON."""
        return (json.dumps({"format": FORMAT, "version": VERSION} | asdict(self), indent=1) + "\n").encode()

    @classmethod
    def read(cls, file: Place) -> "BulkJob":
        """Read a manifest. Raise UserError for other content."""
        try:
            found = parse_object(read_file(file))
            if (found.pop("format"), found.pop("version")) != (FORMAT, VERSION):
                raise ValueError("a different format or version")
            return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{file}: expected a manifest of {FORMAT} {VERSION}, got other content ({error})"
            ) from error

    def differences(self, earlier: "BulkJob") -> list[str]:
        """Describe each value that differs from an earlier job's."""
        before, now = _flat(earlier), _flat(self)
        names = dict.fromkeys((*before, *now))
        return [
            f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))}"
            for name in names
            if before.get(name) != now.get(name)
        ]


def _flat(job: BulkJob) -> dict[str, Option]:
    """Return all values by name, those of models and options by their own names."""
    found: dict[str, Option] = {}
    for field in fields(job):
        value = getattr(job, field.name)
        values = value if isinstance(value, Mapping) else {"": value}
        found |= {".".join(filter(None, (field.name, name))): one for name, one in values.items()}
    return found


def _shown(value: Option) -> str:
    return value[:12] + "…" if isinstance(value, str) and len(value) >= 32 else str(value)
