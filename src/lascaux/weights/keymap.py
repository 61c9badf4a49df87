"""From a publisher's names of tensors to ours, by a table of rules, and back."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from lascaux.errors import WrongKeys

_SHOWN = 8  # keys of a kind that a message lists


@dataclass(frozen=True)
class Rule:
    """What becomes of the published tensors of one name, or of one pattern of names.

    A placeholder such as `{i}` stands for any characters but a dot, the same on both sides.
    Several published patterns make one tensor of ours through `change`, which takes them in order.
    """

    published: str | tuple[str, ...]
    ours: str | None  # None: dropped, and need not occur
    change: Callable[..., Tensor] | None = None  # published tensors -> ours
    back: Callable[[Tensor], Tensor | Sequence[Tensor]] | None = None  # the inverse of `change`
    optional: bool = False  # need not occur
    why: str = ""

    @property
    def patterns(self) -> tuple[str, ...]:
        """The published patterns, also where there is only one."""
        return (self.published,) if isinstance(self.published, str) else self.published


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression with one named group per placeholder."""
    parts = re.split(r"\{(\w+)\}", pattern)
    seen: set[str] = set()
    expression = ""
    for position, part in enumerate(parts):
        if position % 2 == 0:
            expression += re.escape(part)
        elif part in seen:
            expression += f"(?P={part})"
        else:
            seen.add(part)
            expression += f"(?P<{part}>[^.]+)"
    return re.compile(expression)


def _match(key: str, rules: Sequence[Rule]) -> tuple[Rule, int, dict[str, str]] | None:
    """The first rule that a published key meets, as which of its patterns, and its values."""
    for rule in rules:
        for position, pattern in enumerate(rule.patterns):
            if found := _compiled(pattern).fullmatch(key):
                return rule, position, found.groupdict()
    return None


def translate(
    state: Mapping[str, Tensor], rules: Sequence[Rule], *, source: str = "the checkpoint"
) -> dict[str, Tensor]:
    """The published tensors under our names.

    Args:
        state: published name -> tensor.
        rules: the publisher's table.
        source: what the messages call the file.

    Raises:
        WrongKeys: a key meets no rule, a rule that must occur meets no key, or of several tensors
            that make one of ours some are absent.
    """
    unknown: list[str] = []
    met: set[int] = set()
    gathered: dict[str, tuple[Rule, dict[int, Tensor], dict[str, str]]] = {}
    for key, tensor in state.items():
        match = _match(key, rules)
        if match is None:
            unknown.append(key)
            continue
        rule, position, values = match
        met.add(id(rule))
        if rule.ours is None:
            continue
        name = rule.ours.format(**values)
        owner, parts, _ = gathered.setdefault(name, (rule, {}, values))
        if owner is not rule or position in parts:
            raise WrongKeys(f"{source}: {key!r} is one of two tensors for the same place ({name})")
        parts[position] = tensor
    missing = [
        pattern
        for rule in rules
        if rule.ours is not None and not rule.optional and id(rule) not in met
        for pattern in rule.patterns
    ]
    translated: dict[str, Tensor] = {}
    for name, (rule, parts, values) in gathered.items():
        absent = [p for i, p in enumerate(rule.patterns) if i not in parts]
        if absent:
            missing += [pattern.format(**values) for pattern in absent]
        elif rule.change is None:
            translated[name] = parts[0]
        else:
            translated[name] = rule.change(*(parts[i] for i in range(len(rule.patterns))))
    if unknown or missing:
        raise WrongKeys(f"{source}: {_difference(missing, unknown, [])}")
    return translated


def dropped_by(keys: Iterable[str], rules: Sequence[Rule]) -> dict[str, str]:
    """The published keys that a table drops, each with its reason."""
    return {
        key: match[0].why
        for key in keys
        if (match := _match(key, rules)) is not None and match[0].ours is None
    }


def translate_back(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Our tensors under the publisher's names; what the publisher adds besides is left out.

    Raises:
        WrongKeys: one of our names is not in the table.
    """
    published: dict[str, Tensor] = {}
    for name, tensor in state.items():
        rule, names = _published(name, rules)
        if rule.change is None:
            published[names[0]] = tensor
        elif rule.back is None:
            raise WrongKeys(f"{name!r} has no way back to {' and '.join(names)}")
        else:
            parts = rule.back(tensor)
            published.update(
                zip(names, [parts] if isinstance(parts, Tensor) else parts, strict=True)
            )
    return published


def _published(name: str, rules: Sequence[Rule]) -> tuple[Rule, tuple[str, ...]]:
    for rule in rules:
        if rule.ours is not None and (found := _compiled(rule.ours).fullmatch(name)):
            return rule, tuple(p.format(**found.groupdict()) for p in rule.patterns)
    raise WrongKeys(f"no rule of the table gives {name!r}")


def require_shapes(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    rules: Sequence[Rule] = (),
    *,
    source: str = "the checkpoint",
) -> None:
    """Check that translated tensors are exactly those of a model, by name and shape.

    Args:
        state: our name -> tensor.
        expected: the model's `state_dict()`.
        rules: the table `state` came by, so that messages name the keys of the file.
        source: what the messages call the file.

    Raises:
        WrongKeys: a tensor is missing, extra or of another shape.
    """

    def as_published(name: str) -> str:
        return " + ".join(_published(name, rules)[1]) if rules else name

    missing = [as_published(name) for name in expected if name not in state]
    extra = [as_published(name) for name in state if name not in expected]
    misshaped = [
        f"{as_published(name)} ({_shape(state[name])} where the model has {_shape(tensor)})"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or extra or misshaped:
        raise WrongKeys(f"{source}: {_difference(missing, extra, misshaped)}")


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"


def _difference(missing: list[str], extra: list[str], misshaped: list[str]) -> str:
    kinds = (("missing", missing), ("not expected", extra), ("of another shape", misshaped))
    return "; ".join(f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in kinds if keys)


def listed(keys: Sequence[str]) -> str:
    """The first of the keys, for a message, and how many more there are."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
