"""Upload an image to any place that fsspec reaches, such as s3://bucket/folder/, and say where everybody can see it."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit, urlunsplit

from agentfly.errors import AgentFlyError, ConfigError, ImageError, MissingExtraError, first_line
from agentfly.images.fetch import fetch
from agentfly.redaction import public_url
from agentfly.settings import checked_address

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp"))
_READ_SECONDS = 30.0
_SLACK = 1 << 20  # bytes beyond the image that are read of its public address, to tell another file from a fault


class UploadError(AgentFlyError):
    """The image is made, but could not be uploaded."""


def check_place(url: str, public: str | None = None) -> None:
    """Check the addresses of an upload before anything is made.

    Args:
        url: place of the upload.
        public: address of the web at which that place is seen; None for none.

    Raises:
        ConfigError: an address is wrong, names no place that fsspec knows, or its package is not installed.
        MissingExtraError: uploads to s3 are wanted, and s3fs is not installed.
    """
    if public is not None:
        try:
            checked_address(public)
        except ValueError as fault:
            raise ConfigError(
                "--public-url is no address of the web: write https://HOST/FOLDER/, where the place of --upload is seen"
            ) from fault
    fsspec = importlib.import_module("fsspec")
    protocol, separator, rest = url.partition("://")
    if not separator or not (rest or protocol == "memory"):
        raise ConfigError(
            f"cannot upload to {public_url(url)!r}: give an address such as s3://bucket/folder/ or file:///folder/"
        )
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


async def publish(file: Path, url: str, public: str | None, *, allow_private_hosts: bool = False) -> tuple[str, str]:
    """Upload a file; return its address at the place, and the address at which everybody sees it.

    The second one is read once, without a key, and must give the file.

    Args:
        file: the local file.
        url: see `upload`.
        public: address of the web for `url`; None where there is none, and both results are equal.
        allow_private_hosts: also read `public` from an address that is not public.

    Raises:
        UploadError: the upload failed, or the file cannot be read at its public address.
    """
    stored = await upload(file, url)
    if public is None:
        return stored, stored
    parts = urlsplit(public)
    if not _is_file(f"{parts.scheme}://{parts.netloc}{parts.path}"):
        parts = parts._replace(path=f"{parts.path.rstrip('/')}/{quote(PurePosixPath(stored).name)}")
    seen = urlunsplit(parts)
    content = await asyncio.to_thread(file.read_bytes)
    try:
        found = await asyncio.to_thread(
            fetch,
            seen,
            timeout=_READ_SECONDS,
            max_bytes=len(content) + _SLACK,
            allow_private_hosts=allow_private_hosts,
        )
    except ImageError as fault:
        raise UploadError(
            f"the image is at {stored}, but cannot be read at {public_url(seen)} ({public_url(first_line(fault))}): "
            "let everybody read that place, or correct --public-url"
        ) from fault
    if found != content:
        raise UploadError(
            f"the image is at {stored}, but {public_url(seen)} shows something else: correct --public-url"
        )
    return stored, public_url(seen)


async def upload(file: Path, url: str) -> str:
    """Upload a file and return its address, without a password.

    Args:
        file: the local file.
        url: address of the file if it ends in the suffix of an image, else of its folder. In a folder the file's name
            begins with that of its local folder, since images of several runs have equal names.

    Raises:
        UploadError: the upload failed.
    """
    protocol, _, rest = url.partition("://")
    target = url if _is_file(url) else f"{protocol}://{rest.rstrip('/')}/{file.parent.name}-{file.name}"
    shown = public_url(target)

    def put() -> None:
        filesystem, path = importlib.import_module("fsspec").core.url_to_fs(target)
        # Object stores have no folders, and would be asked to make the bucket.
        if target.startswith(("file:", "local:")):
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.put_file(str(file), path)

    try:
        await asyncio.to_thread(put)
    except Exception as fault:  # every file system has its own: botocore's, gcsfs's, OSError
        raise UploadError(
            f"cannot upload to {shown}: {public_url(first_line(fault))}; check the address and the key"
        ) from fault
    return shown


def _is_file(url: str) -> bool:
    """Return True for the address of an image, False for that of a folder; a bucket is one, whatever its name."""
    rest = url.partition("://")[2]
    return "/" in rest and PurePosixPath(rest).suffix.lower() in _SUFFIXES and not rest.endswith("/")
