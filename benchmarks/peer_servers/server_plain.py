"""What a person writes without a library: FastAPI, a lock, a thread.

python server_plain.py CHECKPOINT PORT
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from fastapi import FastAPI
from server_pipeline import Edit, Pipeline

app = FastAPI()
lock = asyncio.Lock()
pipeline = Pipeline(sys.argv[1])


@app.post("/v1/images/edits")
async def edit(body: Edit) -> dict[str, str]:
    """Edit one image; one request at a time has the model."""
    async with lock:
        (image,) = await asyncio.to_thread(pipeline.run, [body])
    return {"image": image}


@app.get("/health")
async def health() -> dict[str, str]:
    """Answer once the model is loaded."""
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
