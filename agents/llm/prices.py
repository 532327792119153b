"""What a model call costs: a versioned table, and a person's corrections to it.

`load_prices(overrides, free)` reads `agents/prices.toml` (its date and source are inside), lays the
`[prices.MODEL]` tables of a campaign over it, and treats names that match a pattern of `free` as
costing nothing. A model without a price is an error rather than zero dollars, with one exception:
behind a loopback address an unknown model is taken for a local one and is free. Rates change
without notice; lineage has the tokens, so money can be computed again from another table.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lineage.errors import SpecInvalid, UnknownName
from lineage.records import Usage

_DATED = re.compile(r"-20\d{6}$")
_Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rate(BaseModel):
    """Dollars per million tokens. Cache rates left out cost what plain input costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _Dollars
    output: _Dollars
    cache_read: _Dollars | None = None
    cache_write: _Dollars | None = None
    cache_write_1h: _Dollars | None = None
    over_tokens: int | None = Field(default=None, ge=1)
    over_factor: _Dollars = 1.0

    def cost(self, usage: Usage, *, cache_ttl: str = "5m") -> float:
        """Dollars for one call (`over_tokens` is about the input of a single call)."""
        read = self.input if self.cache_read is None else self.cache_read
        write = self.cache_write_1h if cache_ttl == "1h" else self.cache_write
        write = self.input if write is None else write
        whole_input = usage.tokens_in + usage.tokens_cache_read + usage.tokens_cache_write
        factor = self.over_factor if self.over_tokens is not None and whole_input > self.over_tokens else 1.0
        dollars = (
            usage.tokens_in * self.input
            + usage.tokens_out * self.output
            + usage.tokens_cache_read * read
            + usage.tokens_cache_write * write
        )
        return dollars * factor / 1e6


FREE = Rate(input=0.0, output=0.0)


def is_loopback(host: str) -> bool:
    """True for this machine's own addresses.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("api.anthropic.com")
    (True, True, False)
    """
    bare = host.strip("[]").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ip_address(bare).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Prices:
    version: str
    source: str
    rates: Mapping[str, Rate]
    free: tuple[str, ...] = ()

    def rate(self, model: str, host: str = "") -> tuple[Rate, str]:
        """The rate and the name of the table it came from; raises UnknownName for a model without a price."""
        if any(fnmatch.fnmatchcase(model, pattern) for pattern in self.free):
            return FREE, f"{self.version}:declared-free"
        found = self.rates.get(model) or self.rates.get(_DATED.sub("", model))
        if found is not None:
            return found, self.version
        if is_loopback(host):
            return FREE, f"{self.version}:local"
        raise UnknownName(
            "price for model",
            model,
            self.rates,
            hint=f"table {self.version}; add [prices.{model!r}] with input and output in dollars per million "
            "tokens, or list the model under free_models",
        )

    def priced(self, model: str, usage: Usage, *, host: str = "", cache_ttl: str = "5m") -> Usage:
        """The same usage with its dollars and the table's name filled in."""
        rate, table = self.rate(model, host)
        return usage.model_copy(update={"usd": rate.cost(usage, cache_ttl=cache_ttl), "price_table": table})


def load_prices(
    overrides: Mapping[str, Mapping[str, float]] | None = None, free: Sequence[str] = ()
) -> Prices:
    """The shipped table with a person's changes; SpecInvalid names the model and the key that is wrong."""
    table = tomllib.loads(files("agents.llm").joinpath("prices.toml").read_text("utf-8"))
    rates = {name: Rate.model_validate(fields) for name, fields in table["models"].items()}
    for name, fields in (overrides or {}).items():
        base = rates[name].model_dump() if name in rates else {}
        try:
            rates[name] = Rate.model_validate({**base, **fields})
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "table"
            raise SpecInvalid(
                f"prices.{name}: {where}: {first['msg']}; give input and output in dollars per million tokens"
            ) from e
    version = str(table["version"]) + ("+own" if overrides else "")
    return Prices(version, str(table["source"]), rates, tuple(free))
