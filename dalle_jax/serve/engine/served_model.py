"""The interface between the server and a model: its abilities, and the runner that draws on the devices."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from dalle_jax.pipelines.request import RequestKeywords, RequestOptions
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.works import Work


@dataclass(frozen=True)
class Abilities:
    """Abilities of a model, which ``GET /v1/models`` returns.

    - ``kind``: the kind of model, for people.
    - ``side``: the side of an image in pixels.
    - ``generate``, ``inpaint``, ``vary``, ``mix``: it draws prompts, fills masked pixels, varies an image, and changes
      whole images by a prompt.
    - ``partials``: it shows images while they are drawn.
    - ``ranks``: a CLIP scores its images.
    - ``options``: the sampling fields that it reads.
    - ``steps``: the numbers of steps that a request may choose, each of which is compiled.
    """

    kind: str
    side: int
    generate: bool = True
    inpaint: bool = False
    vary: bool = False
    mix: bool = False
    partials: bool = False
    ranks: bool = False
    options: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()


class Tokens(NamedTuple):
    """The tokens of a work: of its texts and images, and the codes that are drawn; a model of pixels draws none."""

    text: int
    images: int
    drawn: int


@runtime_checkable
class Runner(Protocol):
    """A model at work. All methods are called on the engine's thread."""

    @property
    def busy(self) -> bool:
        """True if ``step`` has something to do."""
        ...

    def admit(self, job: Job) -> bool:
        """Take a job over, or return False if there is no room now."""
        ...

    def step(self) -> None:
        """Do a bounded piece of work, and send what it gave to the jobs. Raise only for a fault that ends all jobs."""
        ...

    def drop(self, error: Exception) -> None:
        """End all jobs with an error, and be ready for new ones."""
        ...


@runtime_checkable
class ServedModel(Protocol):
    """A model by its name. All methods but ``warm`` and those of the runner may be called on any thread."""

    @property
    def name(self) -> str:
        """The name that requests give."""
        ...

    @property
    def abilities(self) -> Abilities:
        """The abilities."""
        ...

    @property
    def runner(self) -> Runner:
        """The model at work."""
        ...

    def options(self, given: RequestKeywords) -> RequestOptions:
        """Return the options of a request, with the model's defaults. Raise UserError for one out of range."""
        ...

    def check(self, work: Work) -> None:
        """Raise UserError, which names the field, for a work that the model cannot do."""
        ...

    def tokens(self, work: Work) -> Tokens:
        """Count the tokens of a work."""
        ...

    def warnings(self, work: Work) -> list[str]:
        """Return warnings, such as of a prompt that the model truncates."""
        ...

    def warm(self) -> None:
        """Compile what requests need. Called on the engine's thread, before any job."""
        ...
