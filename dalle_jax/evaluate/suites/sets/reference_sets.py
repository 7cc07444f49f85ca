"""The reference side of a comparison: images, whose features are kept in files, or statistics alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from dalle_jax.evaluate.features.feature_extractor import FeatureExtractor
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.distributions.statistics_file import FeatureName, cached_statistics, read_statistics
from dalle_jax.evaluate.suites.feature_comparison import features_of
from dalle_jax.evaluate.suites.image_sets import ImageSet, stream
from dalle_jax.parallel import hosts


@runtime_checkable
class ReferenceSet(Protocol):
    """A reference; ``images`` is None if only its features are known."""

    @property
    def name(self) -> str:
        """The reference's name in messages, such as its path."""
        ...

    @property
    def images(self) -> ImageSet | None:
        """The images behind the features, if there are any."""
        ...

    def features(
        self, extractors: Sequence[FeatureExtractor], batch: int, count: int | None, say: Callable[[str], None]
    ) -> list[FeatureSet]:
        """Return the features of the first ``count`` images for each extractor; all processes must call this."""
        ...


@dataclass(frozen=True)
class ReferenceImages:
    """Images whose features are kept in the folder ``statistics``, and found again by the content of the images.

    With None they are computed each time.
    """

    images: ImageSet
    statistics: Path | None = None

    @property
    def name(self) -> str:
        """The name of the images."""
        return self.images.name

    def features(
        self, extractors: Sequence[FeatureExtractor], batch: int, count: int | None, say: Callable[[str], None]
    ) -> list[FeatureSet]:
        """Return the features, from their file if the same images were measured before."""

        def measure(missing: list[int]) -> list[FeatureSet]:
            some = [extractors[index] for index in missing]
            return features_of(stream(self.images, batch, count), some, progress)

        def progress(done: int) -> None:
            if done % (10 * batch) == 0:
                say(f"{self.name}: {done:,} images read")

        if self.statistics is None:
            return measure(list(range(len(extractors))))
        networks = [FeatureName(one.name, one.width) for one in extractors]
        data = self.images.fingerprint(count) if hosts.is_first() else ""
        return cached_statistics(self.statistics, networks, data, measure, say)


@dataclass(frozen=True)
class ReferenceStatistics:
    """Statistics in an ``.npz`` file, of this program or of another; see ``read_statistics``."""

    path: Path
    images = None

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.path)

    def features(
        self, extractors: Sequence[FeatureExtractor], batch: int, count: int | None, say: Callable[[str], None]
    ) -> list[FeatureSet]:
        """Return the statistics. Raise ``UserError`` for those of another network, or of another width."""
        del batch, count, say
        return [read_statistics(self.path, one.name, one.width) for one in extractors]
