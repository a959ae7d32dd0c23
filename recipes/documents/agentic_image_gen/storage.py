"""The upload of an image to UPLOAD_URL, seen at UPLOAD_PUBLIC_URL."""

from __future__ import annotations

from pathlib import Path

from agentfly.errors import ConfigError
from agentfly.systems.refinement.command import read_settings
from agentfly.systems.upload import check_place, publish


async def upload_image_to_cloud(image_path: str, **options: object) -> str:
    """Return the public address of the uploaded image; without UPLOAD_PUBLIC_URL that of its place.

    Args:
        image_path: the image.
        options: `upload` and `public_url` in place of the two variables.

    Raises:
        ConfigError: no place is given, or an address is wrong.
        UploadError: the upload failed.
    """
    settings = read_settings(options, None, None)
    if not settings.upload:
        raise ConfigError("no place to upload to: set UPLOAD_URL, such as s3://bucket/folder/")
    check_place(settings.upload, settings.public_url)
    return (await publish(Path(image_path), settings.upload, settings.public_url))[1]
