"""Empty modules for packages that `dalle_pytorch` imports and that our cases never call."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


def stub(name: str, **members) -> None:
    """Register an empty module ``name`` with the given members; modules that are loaded already are kept."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        if path not in sys.modules:
            module = ModuleType(path)
            module.__path__ = []
            module.__spec__ = ModuleSpec(path, loader=None, is_package=True)
            sys.modules[path] = module
            if end > 1:
                setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], module)
    for member, value in members.items():
        setattr(sys.modules[name], member, value)


def install() -> None:
    from packaging.version import parse

    stub("pkg_resources", parse_version=parse, get_distribution=lambda name: ModuleType(name))
    stub("taming.models.vqgan", VQModel=object, GumbelVQ=object)
    stub("torchvision.transforms")


install()
