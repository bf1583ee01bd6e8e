"""The demo environment must hold PyTorch's CPU build: the CUDA build is gigabytes that a laptop never uses."""

import sys

import torch

if torch.version.cuda is not None:
    sys.exit(
        f"The environment got the CUDA build of PyTorch ({torch.__version__}). Remove .venv and name PyTorch's own CPU "
        "index: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    )
