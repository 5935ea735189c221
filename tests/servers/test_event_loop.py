# SPDX-License-Identifier: GPL-2.0-or-later
"""The event loop of the web server never returns: it is named at once, under load or not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hotpatch
from tests.support.compiled import SharedObjects
from tests.targets.servers import Connection, Load

LONG = 60.0

REPLACES_THE_LOOP = """
#include <hotpatch.h>
static void loop(int listener) { (void)listener; }
HOTPATCH_REPLACE(loop);
"""
REPLACES_LOOP_AND_CALLEE = (
    REPLACES_THE_LOOP
    + """
void connection_ready(int fd) { HOTPATCH_ORIGINAL(connection_ready)(fd); }
HOTPATCH_REPLACE(connection_ready);
"""
)
REPLACES_MAIN = """
#include <hotpatch.h>
int main(void) { return 0; }
HOTPATCH_REPLACE(main);
"""


@pytest.mark.parametrize("load", [0, 500])
@pytest.mark.parametrize(
    ("text", "name"),
    [(REPLACES_THE_LOOP, "loop"), (REPLACES_LOOP_AND_CALLEE, "loop"), (REPLACES_MAIN, "main")],
    ids=["loop", "loop and callee", "main"],
)
def test_an_event_loop_is_named_and_not_waited_for(
    text: str,
    name: str,
    load: int,
    start: Callable[..., Any],
    root: str,
    tmp_path: Path,
) -> None:
    server = start("web-v1", "--root", root)
    port = server.ready()["port"]
    if load:
        options = ("--connections", "4", "--rate", str(load), "--seconds", "3600")
        generator = start("webload", "--port", port, *options, kind=Load)
        generator.ready()
    path = SharedObjects(tmp_path)(text, "-O2")
    with pytest.raises(hotpatch.Busy) as caught:
        hotpatch.apply(server.pid, path, timeout=LONG)
    assert caught.value.reason.startswith(f"{name} never returns: ")
    assert re.search(r"in the loop at loop\+0x\w+ \(web-v1\) at loop\.c:\d+$", caught.value.reason)
    assert "calls" in caught.value.hint
    assert caught.value.blockers[0].function in ("loop", "main", "connection_ready")
    assert hotpatch.patches(server.pid) == []
    with Connection(int(port)) as connection:
        assert connection.request("/ten.txt").body == b"0123456789"


def test_a_loop_is_replaced_at_an_update_point_under_load(
    start: Callable[..., Any], root: str, tmp_path: Path
) -> None:
    """The loop that runs goes on in its old code, and calls the new one."""
    server = start("web-v1", "--root", root)
    port = server.ready()["port"]
    options = ("--connections", "4", "--rate", "500", "--seconds", "3600")
    generator = start("webload", "--port", port, *options, kind=Load)
    generator.ready()
    point = "HOTPATCH_UPDATE_POINT(connection_ready);\n"
    path = str(SharedObjects(tmp_path)(REPLACES_LOOP_AND_CALLEE + point, "-O2"))
    for _ in range(3):
        result = hotpatch.apply(server.pid, path, timeout=LONG)
        assert {f.name for f in result.functions} == {"connection_ready", "loop"}
        with Connection(int(port)) as connection:
            assert connection.request("/ten.txt").body == b"0123456789"
        hotpatch.revert(server.pid, timeout=LONG)
        with Connection(int(port)) as connection:
            assert connection.request("/ten.txt").body == b"0123456789"
    generator.process.terminate()
    report = generator.result()
    assert [report[name] for name in ("status", "failures", "dropped", "refused")] == [0, 0, 0, 0]
