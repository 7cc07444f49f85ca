"""Run by the Python of another environment: figures of torch-fidelity 0.4 and torchmetrics 1.9, as an .npz.

metrics_by_torch.py features IN.npz OUT.npz    figures of the arrays reference, generated, logits and others
metrics_by_torch.py pairs IN.npz OUT.npz       SSIM, MS-SSIM and PSNR of the arrays originals, copies and large
"""

import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from unittest import mock

import numpy as np
import torch
from torch import nn


class Stub(MetaPathFinder, Loader):
    """Stands for torchvision, which torch-fidelity imports for networks that are not used here."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__dict__["__getattr__"] = lambda name: mock.MagicMock()
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.append(Stub())  # after the finders of installed packages


class Given(nn.Module):
    """Stands for a network: the "images" are features already."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.float()


def features(given: str, out: str) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    arrays = {name: torch.from_numpy(array) for name, array in np.load(given).items()}
    reference, generated, logits = (arrays[name] for name in ("reference", "generated", "logits"))
    width = reference.shape[1]
    one, other = (fid_features_to_statistics(rows.double()) for rows in (generated, reference))
    kid = kid_features_to_metric(generated, reference, kid_subsets=100, kid_subset_size=1000, rng_seed=2020,
                                 kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None,
                                 kid_kernel_poly_coef0=1, verbose=False)  # fmt: skip
    prc = prc_features_to_metric(
        generated, reference, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
    )
    fid = FrechetInceptionDistance(feature=Given(width)).set_dtype(torch.float64)
    whole = KernelInceptionDistance(feature=Given(width), subsets=1, subset_size=len(reference))
    score = InceptionScore(feature=Given(logits.shape[1]), splits=1)
    for metric in (fid, whole):
        metric.update(reference, real=True)
        metric.update(generated[: len(reference)], real=False)
    score.update(logits)
    figures = {
        "fidelity.fd": fid_statistics_to_metric(one, other, False)["frechet_inception_distance"],
        "fidelity.kid_subsets": kid["kernel_inception_distance_mean"],
        "fidelity.precision": prc["precision"],
        "fidelity.recall": prc["recall"],
        "fidelity.is": isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"],
        "torchmetrics.fd": fid.compute().item(),
        "torchmetrics.kid": whole.compute()[0].item(),
        "torchmetrics.is": score.compute()[0].item(),
    }
    np.savez(out, **figures)


def pairs(given: str, out: str) -> None:
    from torch.nn.functional import avg_pool2d
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim
    from torchmetrics.functional.image.ssim import _ssim_update

    def inside(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return SSIM at the positions where the window fits, as the paper has it; torchmetrics pads."""
        _, whole = ssim(one, other, data_range=255.0, reduction="none", return_full_image=True)
        return whole[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))

    arrays = {name: torch.from_numpy(array).permute(0, 3, 1, 2).double() for name, array in np.load(given).items()}
    originals, copies = arrays["originals"], arrays["copies"]
    multiscale = torch.ones(len(originals), dtype=torch.float64)
    a, b = arrays["large_copies"], arrays["large"]
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        contrast = _ssim_update(a, b, data_range=255.0, return_contrast_sensitivity=True)[1]
        multiscale *= contrast**weight
        a, b = avg_pool2d(a, 2), avg_pool2d(b, 2)
    np.savez(
        out,
        ssim=inside(copies, originals),
        psnr=[psnr(a, b, data_range=255.0) for a, b in zip(copies, originals, strict=True)],
        ms_ssim=multiscale * inside(a, b) ** 0.1333,
    )


if __name__ == "__main__":
    {"features": features, "pairs": pairs}[sys.argv[1]](*sys.argv[2:])
