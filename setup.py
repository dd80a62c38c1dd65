"""Packaging of recbole_soft; `properties/` lies beside the package in a checkout and inside it in a wheel."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
VERSION = next(line.split('"')[1] for line in (ROOT / "recbole_soft" / "__init__.py").read_text().splitlines()
               if line.startswith("__version__"))
PROPERTIES = sorted({f"recbole_soft.{'.'.join(path.parent.relative_to(ROOT).parts)}"
                     for path in (ROOT / "properties").rglob("*.yaml")})

setup(
    name="recbole-soft",
    version=VERSION,
    description="Language models fine-tuned for sequential recommendation, beside all of RecBole, under one protocol",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    # Most folders of the package have no __init__.py, so `find_packages` would leave them out of the wheel.
    packages=[*find_namespace_packages(include=["recbole_soft", "recbole_soft.*"], exclude=["*.__pycache__"]),
              *PROPERTIES],
    package_dir={name: name.removeprefix("recbole_soft.").replace(".", "/") for name in PROPERTIES},
    package_data={"recbole_soft.reporting.html": ["assets/*"], **{name: ["*.yaml"] for name in PROPERTIES}},
    entry_points={"console_scripts": ["recbole-soft = recbole_soft.cli:main"]},
    install_requires=[
        # 1.2.1 requires a ray that exists for Python 3.11 only; 1.2.0 resolves on 3.12 and 3.13. ray is never imported.
        "recbole>=1.2.0,<1.3",
        "torch>=2.6",
        "transformers>=5,<6",
        "peft>=0.18",
        "safetensors>=0.4",
        "tokenizers>=0.20",
        "numpy>=1.26,<3",
        "pandas>=2.0,<4",
        "scipy>=1.11",
        "pyyaml>=6",
        "tqdm>=4.60",
        "tensorboard>=2.5",
    ],
    extras_require={
        "quant": ["bitsandbytes>=0.45"],
        "prep": ["polars>=2.1,<3"],
        "plots": ["matplotlib>=3.7"],
        "demo": ["gradio>=6,<7"],
        "tune": ["optuna>=5,<6"],
        "test": ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.9",
                 "matplotlib>=3.7"],
    },
)
