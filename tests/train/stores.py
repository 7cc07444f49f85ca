"""Local servers with the APIs of Amazon's and Google's stores; each test that needs one requests it."""

import contextlib
import os
import socket
import urllib.request
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables inside the context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def forget(kind: str) -> None:
    """Drop the clients that are connected to the server of an earlier module."""
    import fsspec
    from etils.epath import backend

    fsspec.get_filesystem_class(kind).clear_instance_cache()
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()


@contextlib.contextmanager
def amazon() -> Iterator[str]:
    """Serve ``s3://`` with moto and return a new bucket."""
    pytest.importorskip("s3fs", reason="s3:// needs s3fs: pip install -e '.[s3]'")
    moto = pytest.importorskip("moto.server", reason="the test of s3:// needs a server: pip install 'moto[server]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    known = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with environment(AWS_ENDPOINT_URL=f"http://{host}:{port}", AWS_EC2_METADATA_DISABLED="true", **known):
        import fsspec

        forget("s3")
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # and moto its buckets
        fsspec.filesystem("s3").mkdir("images")
        yield "s3://images"
    server.stop()


@contextlib.contextmanager
def google() -> Iterator[str]:
    """Serve ``gs://`` with gcp-storage-emulator and return a new bucket."""
    pytest.importorskip("gcsfs", reason="gs:// needs gcsfs: pip install -e '.[gcs]'")
    emulator = pytest.importorskip(
        "gcp_storage_emulator.server", reason="the test of gs:// needs a server: pip install gcp-storage-emulator"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="images")
    server.start()
    url = f"http://127.0.0.1:{port}"
    known = {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "test"}
    with environment(STORAGE_EMULATOR_HOST=url, TENSORSTORE_GCS_HTTP_URL=url, GOOGLE_CLOUD_PROJECT="test", **known):
        forget("gs")
        yield "gs://images"
    server.stop()
