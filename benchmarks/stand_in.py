"""A stand-in for torchvision while a checkout is imported that asks for it."""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stand_in_for_torchvision() -> Iterator[None]:
    """Enough of the names for an import; none of it is used while time is taken."""
    vision, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
    for name in ("Resize", "CenterCrop", "ToTensor", "Normalize", "Compose"):
        setattr(transforms, name, lambda *_, **__: None)
    transforms.InterpolationMode = types.SimpleNamespace(BICUBIC=3)
    vision.transforms = transforms
    names = {"torchvision": vision, "torchvision.transforms": transforms}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
