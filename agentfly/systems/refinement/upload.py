"""Upload the best image to any place that fsspec reaches, such as s3://bucket/folder/."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path, PurePosixPath

from agentfly.errors import AgentFlyError, ConfigError, MissingExtraError, first_line

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp"))


class UploadError(AgentFlyError):
    """The image is made, but could not be uploaded."""


def check_place(url: str) -> None:
    """Check an address before anything is made.

    Raises:
        ConfigError: the address names no place that fsspec knows, or its package is not installed.
        MissingExtraError: uploads to s3 are wanted, and s3fs is not installed.
    """
    fsspec = importlib.import_module("fsspec")
    protocol, separator, rest = url.partition("://")
    if not separator or not (rest or protocol == "memory"):
        raise ConfigError(f"cannot upload to {url!r}: give an address such as s3://bucket/folder/ or file:///folder/")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as fault:
        if protocol in ("s3", "s3a"):
            raise MissingExtraError(f"--upload to {protocol}://", "s3") from fault
        package = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
        needed = f"pip install {package[protocol]}" if protocol in package else first_line(fault)
        raise ConfigError(f"uploads to {protocol}:// need a package that is not installed: {needed}") from fault
    except ValueError as fault:
        raise ConfigError(f"fsspec knows no place {protocol}://: use s3, gs, az or file") from fault


async def upload(file: Path, url: str) -> str:
    """Upload a file and return its address.

    Args:
        file: the local file.
        url: address of the file if it ends in the suffix of an image, else of its folder. In a folder the file's name
            begins with that of its local folder, since images of several runs have equal names.

    Raises:
        UploadError: the upload failed.
    """
    protocol, _, rest = url.partition("://")
    whole = "/" in rest and PurePosixPath(rest).suffix.lower() in _SUFFIXES and not rest.endswith("/")
    target = url if whole else f"{protocol}://{rest.rstrip('/')}/{file.parent.name}-{file.name}"
    try:
        await asyncio.to_thread(_put, file, target)
    except Exception as fault:  # every file system has its own: botocore's, gcsfs's, OSError
        raise UploadError(f"cannot upload to {target}: {first_line(fault)}; check the address and the key") from fault
    return target


def _put(file: Path, target: str) -> None:
    filesystem, path = importlib.import_module("fsspec").core.url_to_fs(target)
    # Object stores have no folders, and would be asked to make the bucket.
    if target.startswith(("file:", "local:")):
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    filesystem.put_file(str(file), path)
