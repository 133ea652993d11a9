"""Calls inside calls, at the same time: tasks started with `gather` are children of the call that started them."""

import asyncio

import everycall
from everycall import context, current, span, trace

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid"}


@trace(kind="retriever")
async def look_up(country: str) -> str:
    await asyncio.sleep(0)
    return CAPITALS[country]


@trace(name="tour")
async def tour(countries: list[str]) -> list[str]:
    cities = await asyncio.gather(*(look_up(country) for country in countries))
    with span("sort", kind="tool", inputs={"cities": cities}) as call:
        ordered = sorted(cities)
        call.update(output=ordered)
    print("trace", current().trace_id)
    return ordered


async def main() -> None:
    with context(trace_id="order-42", trace_name="tours", end_user_identifier="u-7", session_id="s-1"):
        print(await tour(["France", "Italy", "Spain"]))
        try:
            await tour(["Atlantis"])
        except KeyError as error:
            print("the program's own exception:", repr(error))


asyncio.run(main())
print(everycall.flush())
