"""Options that count only beside another option: asked for without it, they are refused."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Of:
    """Marks a field that counts only beside another: `Annotated[float, Of("name", ("sgd",))]`.

    An option that is written as off, as in `erase_probability=0`, keeps what belongs to it for
    when it is on again.
    """

    option: str
    """The other field of the same section."""
    values: tuple[Any, ...] = ()
    """With one of these the field counts; without values, where the option is on at all."""

    def check(self, config: BaseModel, name: str) -> None:
        """Refuse the field `name` of `config` where nothing would come of it.

        Raises:
            ValueError: what it is of, and what to change.
        """
        came, value = getattr(config, self.option), getattr(config, name)
        if self.values and came not in self.values:
            wanted = " or ".join(f"{self.option}={_text(one)}" for one in self.values)
            raise ValueError(
                f"{name} belongs to {wanted}, not to {self.option}={_text(came)}; "
                f"remove {name}, or change {self.option}"
            )
        if not self.values and not came and self.option not in config.model_fields_set:
            raise ValueError(
                f"{name}={_text(value)} does nothing without {self.option}; set {self.option}, or "
                f"remove {name}"
            )


def _text(value: Any) -> str:
    """As in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def check_options(config: BaseModel) -> None:
    """Refuse every option of `config` that was asked for and that nothing would come of.

    Raises:
        ValueError: an option that is `Of` another, which is off or something else.
    """
    for name, field in type(config).model_fields.items():
        asked = name in config.model_fields_set and getattr(config, name) not in (None, ())
        for mark in field.metadata if asked else ():
            if isinstance(mark, Of):
                mark.check(config, name)
