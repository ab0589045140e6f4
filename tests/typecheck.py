"""The checker that jaxtyping's import hook puts on every function of the package while tests run."""

from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # 1 is a float, as pyright has it
        hint_overrides=FrozenDict({Self: Any}),  # the hook decorates methods one by one, without the class
    )
)
