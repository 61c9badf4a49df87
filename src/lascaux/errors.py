"""Every exception the library raises on purpose.

    LascauxError
    ├── BadInput (also ValueError)      what the caller gave cannot be used
    │   ├── BadPicture                  a picture that is missing, broken, empty or too large
    │   ├── BadText                     a text that cannot be encoded as asked
    │   └── BadClasses                  a set of classes that cannot be classified into
    ├── WeightsError                    a model could not be found, read or built
    │   ├── UnknownModel                no folder, catalogue entry or hub id of that name
    │   ├── UnsafeFile                  the file tries to run code; nothing of it was executed
    │   ├── BrokenFile                  truncated, corrupt or not what its name says
    │   ├── WrongHash                   SHA-256 differs from the recorded one
    │   ├── WrongKeys                   missing, extra or mis-shaped tensors
    │   └── DownloadFailed              the file could not be fetched
    ├── TrainingStopped                 a training cannot go on; its last checkpoint is whole
    ├── GenerationFailed                a picture cannot be finished; the message names the step
    ├── Unsupported                     a combination that is refused with its reason
    └── MissingExtra (also ImportError) an optional dependency is not installed

A message says what came, what was expected and what to do.
"""


class LascauxError(Exception):
    """Root of all exceptions raised on purpose."""


class BadInput(LascauxError, ValueError):
    """What the caller gave cannot be used."""


class BadPicture(BadInput):
    """A picture that is missing, broken, empty or too large."""


class BadText(BadInput):
    """A text that cannot be encoded as asked."""


class BadClasses(BadInput):
    """A set of classes that cannot be classified into."""


class WeightsError(LascauxError):
    """A model could not be found, read or built."""


class UnknownModel(WeightsError):
    """No folder, catalogue entry or hub id of that name."""


class UnsafeFile(WeightsError):
    """The file tries to run code; nothing of it was executed."""


class BrokenFile(WeightsError):
    """Truncated, corrupt or not what its name says."""


class WrongHash(WeightsError):
    """The SHA-256 of a file differs from the recorded one."""


class WrongKeys(WeightsError):
    """Missing, extra or mis-shaped tensors in a checkpoint."""


class DownloadFailed(WeightsError):
    """A file could not be fetched."""


class TrainingStopped(LascauxError):
    """A training cannot go on; its last checkpoint is whole."""


class GenerationFailed(LascauxError):
    """A picture cannot be finished; the message names the step."""


class Unsupported(LascauxError):
    """A combination that is refused; the message gives the reason."""


class MissingExtra(LascauxError, ImportError):
    """An optional dependency is not installed; the message gives the install line."""
