"""What the demo ran on: numbers of a latency test mean little without it."""

from __future__ import annotations

import asyncio
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds_server.demo.options import Options

CPU_INFO = Path("/proc/cpuinfo")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


async def describe(options: Options) -> dict[str, str]:
    """What to the value, in the order in which it is shown."""
    asking = await asyncio.create_subprocess_exec(
        options.envoy, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await asking.communicate())[0].decode().split("version:")[-1].split("/")
    return {
        "Processor": f"{processor()}, {cores()} cores",
        "System": f"{platform.system()} {platform.release()}",
        "Load when the demo began": f"{os.getloadavg()[0]:.2f} (one minute's average)",
        "Python": platform.python_version(),
        "Envoy": said[1] if len(said) > 1 else said[0].strip(),
        "xds-server": _version("xds-server"),
        "scikit-learn": _version("scikit-learn"),
        "Runtime": f"{options.runtime}, {len(options.replicas)} replicas",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
