"""What else a pool's models are called: aliases, versions, fallbacks, splits."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, model_validator

from xds_server.config.documents.base import HeaderName, NonEmpty, Once, OneOf, Part, Weight, expected
from xds_server.config.problems import describe
from xds_server.mesh.names import DefaultVersion


def _names(value: object) -> object:
    """One name stands for a list of one."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        return value
    raise expected("the name of a model, or a list of names")


NamesOf = Annotated[list[NonEmpty], BeforeValidator(_names), AfterValidator(Once("name"))]


class VersionsPart(Part):
    """Versions as names of their own, and which of them the bare name means."""

    default: Annotated[DefaultVersion, BeforeValidator(OneOf(DefaultVersion))] = DefaultVersion.ANY
    pinned: dict[NonEmpty, NonEmpty] | None = None


class SplitTargetPart(Part):
    """One of the names that a split means."""

    name: NonEmpty
    weight: Weight


class SplitPart(Part):
    """A name that means one of several, by weight."""

    targets: list[SplitTargetPart]
    sticky_header: HeaderName | None = None

    @model_validator(mode="after")
    def _some_weight(self) -> SplitPart:
        seen: set[str] = set()
        for index, target in enumerate(self.targets):
            if target.name in seen:
                raise expected(
                    "each target once", f"{describe(target.name)} again", ("targets", index, "name")
                )
            seen.add(target.name)
        if not sum(target.weight for target in self.targets):
            raise expected("at least one target with a weight above 0", "no weight at all", ("targets",))
        return self


class NamesPart(Part):
    """The further names of a pool's models. Any name may be a model, or MODEL/versions/VERSION."""

    aliases: dict[NonEmpty, NamesOf] | None = None
    versions: VersionsPart | None = None
    fallbacks: dict[NonEmpty, NamesOf] | None = None
    adapter_fallback: bool = True
    splits: dict[NonEmpty, SplitPart] | None = None

    @model_validator(mode="after")
    def _one_step_each(self) -> NamesPart:
        """No name leads on to another of its kind: what a request means is found in one step."""
        aliases, splits = self.aliases or {}, self.splits or {}
        for alias, means in aliases.items():
            for index, name in enumerate(means):
                if name in aliases:
                    found = f"{describe(name)}, an alias itself"
                    raise expected("models, or versions of models", found, ("aliases", alias, index))
        for name, others in (self.fallbacks or {}).items():
            if name in others:
                raise expected("other names than itself", describe(name), ("fallbacks", name))
        for name, split in splits.items():
            if name in aliases:
                raise expected("a name that is no alias", f"{describe(name)}, an alias too", ("splits", name))
            for index, target in enumerate(split.targets):
                if target.name in splits and target.name != name:
                    found = f"{describe(target.name)}, a split itself"
                    raise expected(
                        "models, versions of models or aliases",
                        found,
                        ("splits", name, "targets", index, "name"),
                    )
        return self
