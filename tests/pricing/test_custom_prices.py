"""A user's own prices: what the file may contain, which price wins, and errors that name the place."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from everycall._pricing.cost import Consumption, Price, Unpriced
from everycall._pricing.price_book import PriceBook
from everycall.errors import ConfigurationError


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


@pytest.fixture
def book(tmp_path: Path) -> Callable[[str], PriceBook]:
    """Make a book with a file of own prices: `book(text)`."""

    def make(text: str) -> PriceBook:
        (tmp_path / "prices.toml").write_text(text)
        return PriceBook(tmp_path / "prices.toml")

    return make


def cost(book: PriceBook, model: str, provider: str | None = None, *, when: int = 0, tier: str | None = None) -> object:
    result = book.price(Consumption(model, provider, 1_000_000, 0, {}, when or at("2026-06-01"), tier))
    return result.cost if isinstance(result, Price) else result.reason


RANKED = """
[[price]]
model = "acme-*"
input = 1

[[price]]
model = "acme-large"
input = 2

[[price]]
model = "acme-large"
provider = "azure.ai.openai"
input = 3

[[price]]
model = "acme-large"
provider = "azure.ai.openai"
from = 2026-07-01
input = 4

[[price]]
model = "acme-large"
provider = "azure.ai.openai"
tier = "Batch"
input = 0.5

[[price]]
model = "gpt-4o"
input = 0
output = 0
"""


def test_the_most_specific_price_wins(book: Callable[[str], PriceBook]) -> None:
    """A whole name before a pattern, a provider before none, the later start; own prices before the list."""
    own = book(RANKED)
    assert cost(own, "acme-small") == 1
    assert cost(own, "ACME-Large") == 2
    assert cost(own, "acme-large", "ollama") == 2
    for spelling in ("azure.ai.openai", "azure", "Azure_OpenAI"):
        assert cost(own, "acme-large", spelling) == 3
    assert cost(own, "acme-large", "azure", when=at("2026-07-01")) == 4
    assert cost(own, "acme-large", "azure", when=at("2026-06-30T23:59:59")) == 3
    assert cost(own, "acme-large", "azure", tier="batch") == 0.5
    assert cost(own, "acme-large", "azure", tier="flex") == "no own price of tier flex"
    assert cost(own, "gpt-4o", "openai") == 0
    assert cost(own, "gpt-4o-mini", "openai") == 0.15


def test_the_list_applies_when_a_price_is_not_valid_yet(book: Callable[[str], PriceBook]) -> None:
    own = book('[[price]]\nmodel = "gpt-4o"\nfrom = 2026-01-01\nuntil = 2026-02-01\ninput = 7\n')
    assert cost(own, "gpt-4o", "openai", when=at("2026-01-15")) == 7
    assert cost(own, "gpt-4o", "openai", when=at("2026-02-01")) == 2.5
    assert cost(own, "gpt-4o", "openai", when=at("2025-12-31")) == 2.5


def test_the_source_is_the_file_and_the_version_its_content(book: Callable[[str], PriceBook], tmp_path: Path) -> None:
    consumption = Consumption("m", None, 1_000_000, 0, {}, 1)
    first = book('[[price]]\nmodel = "m"\ninput = 1\n').price(consumption)
    second = book('[[price]]\nmodel = "m"\ninput = 1 # the same\n').price(consumption)
    price = book('version = "contract-7"\n[[price]]\nmodel = "m"\ninput = 1\n').price(consumption)
    assert isinstance(first, Price)
    assert isinstance(second, Price)
    assert (first.source, first.version[:7], len(first.version)) == ("prices.toml", "sha256:", 19)
    assert second.version != first.version
    assert price == Price(1.0, "prices.toml", "contract-7")


def test_rates_by_the_length_of_the_input(book: Callable[[str], PriceBook]) -> None:
    own = book(
        '[[price]]\nmodel = "m"\ninput = 1\noutput = 10\n'
        "[[price.above]]\ntokens = 1000\ninput = 4\noutput = 40\n[[price.above]]\ntokens = 100\ninput = 2\n"
    )

    def of(tokens: int) -> float:
        result = own.price(Consumption("m", None, tokens, 1, {}, 1))
        assert isinstance(result, Price)
        return round(result.cost * 1_000_000, 6)

    assert [of(100), of(101), of(1000), of(1001)] == [110, 212, 2010, 4044]


def test_dollars_for_a_request_and_for_searches(book: Callable[[str], PriceBook]) -> None:
    own = book('[[price]]\nmodel = "m"\ninput = 1\nrequests = 5\nweb_searches = 10\n')
    assert own.price(Consumption("m", None, 1_000_000, 0, {"web_searches": 3}, 1)) == Price(
        1 + 0.005 + 0.03,
        "prices.toml",
        own.price(Consumption("m", None, 1, 0, {}, 1)).version,  # type: ignore[union-attr]
    )
    without = book('[[price]]\nmodel = "m"\ninput = 1\n')
    assert without.price(Consumption("m", None, 1, 0, {"web_searches": 3}, 1)) == Unpriced("no price of web_searches")
    assert without.price(Consumption("m", None, 1, 1, {}, 1)) == Unpriced("no price of output tokens")


def test_a_file_can_be_read_again_and_an_invalid_one_is_not_used(
    book: Callable[[str], PriceBook], tmp_path: Path
) -> None:
    own = book('[[price]]\nmodel = "m"\ninput = 1\n')
    assert cost(own, "m") == 1
    (tmp_path / "prices.toml").write_text('[[price]]\nmodel = "m"\ninput = 2\n')
    assert cost(own, "m") == 1
    own.reload()
    assert cost(own, "m") == 2
    (tmp_path / "prices.toml").write_text("[[price]]\n")
    with pytest.raises(ConfigurationError):
        own.reload()
    assert cost(own, "m") == 2
    (tmp_path / "prices.toml").unlink()
    own.reload()
    assert cost(own, "m") == "provider not told"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[price]", "is not valid TOML"),
        ("[price]\nmodel = 'm'", "write [[price]] with two brackets"),
        ("colour = 1", "unknown key 'colour'"),
        ("version = 5", "version must be a text of 1 to 64 characters"),
        ("[[price]]\ninput = 1", "price 1: model must be a text, such as model = 'acme-70b'"),
        ("[[price]]\nmodel = 'm'\ninput = 1\n[[price]]\nmodel = 'n'\ninputs = 1", "price 2 (n): unknown key 'inputs'"),
        ("[[price]]\nmodel = 'm'", "price 1 (m): has no rate"),
        ("[[price]]\nmodel = 'm'\ninput = '1'", "price 1 (m): input must be a number of US dollars per million tokens"),
        ("[[price]]\nmodel = 'm'\ninput = -1", "0 or more, not -1"),
        ("[[price]]\nmodel = 'm'\ninput = true", "not True"),
        ("[[price]]\nmodel = 'm'\ninput = nan", "not nan"),
        ("[[price]]\nmodel = 'm'\nrequests = inf", "requests must be a number of US dollars per thousand"),
        ("[[price]]\nmodel = 'm'\ninput = 1\nprovider = ''", "provider must be a text"),
        ("[[price]]\nmodel = 'm'\ninput = 1\nfrom = '2026-01-01'", "from must be a date"),
        ("[[price]]\nmodel = 'm'\ninput = 1\nfrom = 2026-02-01\nuntil = 2026-02-01", "until must be later than from"),
        ("[[price]]\nmodel = 'm'\ninput = 1\nabove = 5", "above must be tables"),
        ("[[price]]\nmodel = 'm'\ninput = 1\n[[price.above]]\ninput = 2", "above.tokens must be the number"),
        ("[[price]]\nmodel = 'm'\ninput = 1\n[[price.above]]\ntokens = 1\nfee = 2", "unknown key above.fee"),
        ("[[price]]\nmodel = 'm'\ninput = 1\n[[price.above]]\ntokens = 1\noutput = 2", "above.output needs output"),
        (
            "[[price]]\nmodel = 'm'\ninput = 1\n[[price]]\nmodel = 'M'\ninput = 2",
            "price 2 (m): price 1 has the same model, provider, tier and from",
        ),
    ],
)
def test_the_error_for_an_invalid_file_names_the_place_and_reason(
    book: Callable[[str], PriceBook], tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        book(text)
    assert str(raised.value).startswith(str(tmp_path / "prices.toml"))
    assert message in str(raised.value)


def test_a_missing_file_is_an_error_only_if_it_was_named(tmp_path: Path) -> None:
    assert cost(PriceBook(tmp_path / "prices.toml"), "gpt-4o", "openai") == 2.5
    with pytest.raises(ConfigurationError, match=r"is not there; name a file of prices"):
        PriceBook(tmp_path / "prices.toml", required=True)
    with pytest.raises(ConfigurationError, match=r"its name must end in \.toml"):
        PriceBook(tmp_path / "prices.txt", required=True)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot be read"):
        PriceBook(tmp_path / "folder.toml")
