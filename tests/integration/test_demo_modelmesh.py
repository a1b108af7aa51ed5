"""The ModelMesh demo, short: a real etcd, four pods, a real Envoy; each of its claims holds, or it fails."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


async def test_every_claim_of_the_demo_holds(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "xds_server.demo.modelmesh",
        "--seconds",
        "2",
        "--directory",
        str(tmp_path),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 170)
    text = output.decode()
    assert process.returncode == 0, text
    assert "15 claims, every claim held" in text
