"""`jaxcnn info`."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import jax

from ..kernels import onednn
from .show import JsonOption, to_console, to_json

PACKAGES = ("jaxcnn", "jaxcnn-onednn", "jax", "jaxlib", "numpy", "optax")


def info_command(as_json: JsonOption = False):
    """Say what a bug report needs: versions, devices, and which kernels run and why not.

    Examples:

    * jaxcnn info

    * jaxcnn info --json
    """
    found = {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "devices": ", ".join(f"{device.platform} {device.id} ({device.device_kind})" for device in jax.devices()),
        "convolutions on cpu": _convolutions(),
    }
    console = to_console(as_json)
    width = max(map(len, found))
    for name, value in found.items():
        console.print(f"{name:{width}}  {value}", highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print(to_json(found))


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _convolutions():
    reason = onednn.why_not()
    return f"oneDNN {onednn.version()}" if reason is None else f"XLA's; {reason}"
