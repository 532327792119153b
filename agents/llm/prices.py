"""The price of a model call: list prices of the package `genai-prices`, with corrections of the campaign.

`load_prices(overrides, free)` puts the `[prices.MODEL]` tables of a campaign over the package's data (which it
carries; nothing is downloaded), and treats names that match a pattern of `free` as costing nothing. A model
without a price is an error rather than zero dollars, with one exception: behind a loopback address only the
names of Anthropic have a price, and every other model is taken for a local one and is free. Rates change
without notice; lineage has the tokens, so money can be computed again from another table.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lineage.errors import SpecInvalid, UnknownName
from lineage.records import Usage

SEARCH = 10.0  # Anthropic's list price of a thousand searches, where the table has none for a model
_Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rate(BaseModel):
    """Dollars per million tokens. Cache rates left out cost what plain input costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _Dollars
    output: _Dollars
    cache_read: _Dollars | None = None
    cache_write: _Dollars | None = None
    cache_write_1h: _Dollars | None = None
    search: _Dollars = Field(default=0.0, description="dollars of a thousand searches of the web")
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
        return dollars * factor / 1e6 + usage.searches * self.search / 1e3


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
    """Rates of models. `own`: the campaign's corrections by model name; `free`: patterns of names without cost."""

    version: str
    own: Mapping[str, Rate]
    free: tuple[str, ...] = ()

    def rate(self, model: str, host: str = "") -> tuple[Rate, str]:
        """The rate and the name of the table it came from; raises UnknownName for a model without a price."""
        if any(fnmatch.fnmatchcase(model, pattern) for pattern in self.free):
            return FREE, f"{self.version}:declared-free"
        found = self.own.get(model) or _listed(model, host)
        if found is not None:
            return found, self.version
        if is_loopback(host):
            return FREE, f"{self.version}:local"
        raise UnknownName(
            "price for model",
            model,
            [*self.own, *_names()],
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
    """List prices with a campaign's changes; raises SpecInvalid, which names the model and the wrong key."""
    own: dict[str, Rate] = {}
    for name, fields in (overrides or {}).items():
        listed = _listed(name)
        base = listed.model_dump() if listed is not None else {}
        try:
            own[name] = Rate.model_validate({**base, **fields})
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "table"
            raise SpecInvalid(
                f"prices.{name}: {where}: {first['msg']}; give input and output in dollars per million tokens"
            ) from e
    return Prices(f"genai-prices {version('genai-prices')}" + ("+own" if own else ""), own, tuple(free))


def _listed(model: str, host: str = "") -> Rate | None:
    """The list price of a model at standard speed; None when the package has none for input and output."""
    from genai_prices.data_snapshot import get_snapshot  # a second to import

    try:
        provider = "anthropic" if is_loopback(host) else None
        _, info = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    prices = info.get_prices(datetime.now(UTC))
    keys = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")
    found = [getattr(prices, key, None) for key in keys]
    if found[0] is None or found[1] is None:
        return None
    bases = [None if price is None else float(getattr(price, "base", price)) for price in found]
    names = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
    search = getattr(prices, "web_searches_kcount", None)
    rates = {**dict(zip(names, bases, strict=True)), "search": SEARCH if search is None else float(search)}
    return Rate.model_validate({**rates, **_surcharge(found)})


def _surcharge(prices: Sequence[Any]) -> dict[str, float]:
    """The first threshold of whole input tokens, and the largest factor above it: too dear rather than too cheap."""
    tiered = [price for price in prices if getattr(price, "tiers", None)]
    if not tiered:
        return {}
    over = min(price.tiers[0].start for price in tiered)
    factors = [float(tier.price / price.base) for price in tiered for tier in price.tiers if price.base]
    return {"over_tokens": over, "over_factor": max(factors, default=1.0)}


def _names() -> list[str]:
    from genai_prices.data_snapshot import get_snapshot

    return [
        model.id
        for provider in get_snapshot().providers
        if provider.id == "anthropic"
        for model in provider.models
    ]
