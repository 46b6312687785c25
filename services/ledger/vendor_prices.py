"""Writes src/ridges/ledger/vendored_prices.json from the installed genai-prices package.

Run by hand when prices should be newer: uv run --with genai-prices python services/ledger/vendor_prices.py
"""

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any

from genai_prices.data import providers

PROVIDERS = (
    "anthropic",
    "cerebras",
    "cohere",
    "deepseek",
    "fireworks",
    "google",
    "groq",
    "mistral",
    "moonshotai",
    "novita",
    "openai",
    "openrouter",
    "together",
    "x-ai",
)
TARGET = Path(__file__).parent / "src/ridges/ledger/vendored_prices.json"


def nano(per_million: Any) -> int | None:
    """Nano-USD per million tokens; None for what is no plain price (tiers) or finer than a nano-USD."""
    if per_million is None or isinstance(per_million, Decimal | int | float):
        amount = Decimal(per_million or 0) * 1_000_000_000
        return int(amount) if amount == amount.to_integral_value() else None
    return None


def current(prices: Any, today: Any) -> Any:
    """The price that holds today whatever the hour."""
    if not isinstance(prices, list):
        return prices
    for entry in reversed(prices):
        start = getattr(entry.constraint, "start_date", None)
        if entry.constraint is None or (start is not None and start <= today):
            return entry.prices
    return None


def main() -> None:
    now = datetime.now(UTC)
    found: dict[str, list[int]] = {}
    for provider in providers:
        if provider.id not in PROVIDERS:
            continue
        for model in provider.models:
            price = current(model.prices, now.date())
            if price is None or price.input_mtok is None or (price.output_mtok is None and "embed" not in model.id):
                continue
            fresh, output = nano(price.input_mtok), nano(price.output_mtok)
            cached = nano(price.cache_read_mtok) if price.cache_read_mtok is not None else fresh
            if fresh is None or output is None or cached is None:
                continue
            found[f"{provider.id}/{model.id}"] = [fresh, cached, output, output]
    version = metadata.version("genai-prices")
    document = {
        "price_list": f"genai-prices-{version}",
        "source": f"https://github.com/pydantic/genai-prices {version}",
        "taken_at": now.strftime("%Y-%m-%dT00:00:00Z"),
        "license": "MIT License, Copyright (c) Pydantic Services Inc.; see the source",
        "unit": "nano-USD per million tokens: input, cached input, output, reasoning",
        "prices": dict(sorted(found.items())),
    }
    lines = json.dumps(document, indent=1).replace("[\n   ", "[").replace("\n  ]", "]").replace(",\n   ", ", ")
    TARGET.write_text(lines + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found)} prices, {TARGET.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
