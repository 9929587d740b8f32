"""The endpoints as MCP tools, by a client of the protocol."""

import json

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from tests.helpers import complete

JOB = {"source": "photo", "target": "zombie", "steps": 2, "batch": 2}


def test_the_tools_are_the_endpoints_and_answer(server):
    address = f"{server.url}/gradio_api/mcp/"

    async def visit():
        async with (
            streamablehttp_client(address) as (reader, writer, _),
            ClientSession(reader, writer) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            info = next(name for name in tools if name.endswith("info"))
            once = next(name for name in tools if name.endswith("adapt_once"))
            calls = ((info, {}), (once, JOB), (once, {**JOB, "steps": -1}))
            answers = [await session.call_tool(*call) for call in calls]
            return tools, [told(answer) for answer in answers]

    def told(answer) -> str:
        return json.dumps([part.model_dump(mode="json") for part in answer.content])

    tools, (info, adapted, refused) = complete(visit())
    ends = ("adapt", "adapt_once", "sample", "blend", "domain", "info")
    assert len(tools) == 7 and all(any(name.endswith(end) for name in tools) for end in ends)
    adapt = next(tool for name, tool in tools.items() if name.endswith("adapt"))
    assert {"source", "target", "steps"} <= set(adapt.inputSchema["properties"])
    assert "Train the generator" in adapt.description
    assert "fingerprint" in info
    assert "Done: 2 steps." in adapted and ".safetensors" in adapted
    assert "choose from 1 to 2000" in refused
