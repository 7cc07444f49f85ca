"""Run by the Python of another environment, which has torch: image tokenizers of DALL-E and taming-transformers.

dvae SIZES.json FOLDER OUT.npz      a new dVAE of dall_e, pickled as OpenAI published it, and what it makes of an image
new_taming MODEL.json FOLDER OUT.npz    a new VQModel, saved as Lightning saves, and what it makes of an image
taming FOLDER IN.npz OUT.npz        the VQModel of an exported model.yaml and last.ckpt
flax FOLDER IN.npz OUT.npz          the same network from an exported config.json and flax_model.msgpack
lpips IN.npz OUT.npz                the distance of two images and its gradient, with the tensors given
discriminator IN.npz OUT.npz        NLayerDiscriminator, with the tensors given
"""

import json
import pathlib
import re
import sys
import types

import numpy as np
import torch


def first(x):
    return torch.tensor(x).permute(0, 3, 1, 2)


def last(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def noisy(module):
    """Norms and biases, which are ones and zeros at first, get numbers that show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in module.parameters():
            if value.ndim <= 1:
                value.normal_(0.5, 0.3)


def dvae(sizes, folder, out):
    import attr

    attr.set_run_validators(False)  # they ask for widths of 64 and 512 codes at least
    import dall_e

    given = json.loads(pathlib.Path(sizes).read_text())
    torch.manual_seed(0)
    encoder = dall_e.Encoder(**given["encoder"])
    decoder = dall_e.Decoder(**given["decoder"])
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        noisy(module)
        torch.save(module, pathlib.Path(folder) / f"{name}.pkl")
    pixels = torch.rand(2, 3, 16, 24)
    logits = encoder(dall_e.map_pixels(pixels))
    codes = torch.argmax(logits, dim=1)
    hard = torch.nn.functional.one_hot(codes, logits.shape[1]).permute(0, 3, 1, 2).float()
    drawn = dall_e.unmap_pixels(torch.sigmoid(decoder(hard)[:, :3]))
    np.savez(out, pixels=last(pixels), logits=last(logits), codes=codes, drawn=last(drawn))


def vq_model(parameters):
    """A VQModel; what makes its losses wants torchvision, and nothing of that is used here."""
    import pytorch_lightning

    del pytorch_lightning  # looks for torchvision when it is first imported, and must not find the hollow one
    hollow = types.ModuleType("torchvision")
    hollow.models = types.SimpleNamespace(vgg16=None)
    main = types.ModuleType("taming.main")
    main.instantiate_from_config = lambda config: torch.nn.Identity()
    sys.modules.setdefault("torchvision", hollow)
    sys.modules.setdefault("taming.main", main)
    from taming.models.vqgan import VQModel

    return VQModel(**parameters).eval()


def outputs(model, values, out):
    with torch.no_grad():
        quantized, _, found = model.encode(first(values))
        drawn = model.decode(quantized)
    np.savez(out, values=values, codes=found[2].reshape(quantized[:, 0].shape), drawn=last(drawn))


def new_taming(parameters, folder, out):
    torch.manual_seed(0)
    model = vq_model(json.loads(pathlib.Path(parameters).read_text()))
    noisy(model)
    values = torch.rand(2, 24, 32, 3).numpy() * 2 - 1
    with torch.no_grad():
        found = model.quant_conv(model.encoder(first(values))).transpose(0, 1).flatten(1)
        table = model.quantize.embedding.weight  # codes all around what the encoder gives
        table.copy_(found.mean(1) + found.std(1) * torch.randn_like(table))
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, pathlib.Path(folder) / "last.ckpt")
    outputs(model, values, out)


def taming(folder, given, out):
    import yaml

    config = yaml.safe_load((pathlib.Path(folder) / "model.yaml").read_text())
    model = vq_model(config["model"]["params"])
    state = torch.load(pathlib.Path(folder) / "last.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict(state, strict=True)
    outputs(model, np.load(given)["values"], out)


def flax(folder, given, out):
    """vqgan-jax is on no index: its names and layouts are undone here, and the network is taming's."""
    import msgpack

    def array(code, content):
        shape, dtype, numbers = msgpack.unpackb(content)
        assert code == 1
        return np.frombuffer(numbers, dtype).reshape(shape)

    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    tree = msgpack.unpackb((pathlib.Path(folder) / "flax_model.msgpack").read_bytes(), ext_hook=array)
    state, waiting = {}, [("", tree)]
    while waiting:
        prefix, node = waiting.pop()
        for key, value in node.items():
            if isinstance(value, dict):
                # of the middle, block_1 and attn_1 are names and no numbers in a list
                there = key if prefix.endswith("mid.") else re.sub(r"_(\d+)$", r".\1", key)
                waiting.append((f"{prefix}{there}.", value))
                continue
            name = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(key, key)
            value = value.transpose(3, 2, 0, 1) if key == "kernel" else value
            state[f"{prefix}{name}"] = torch.tensor(value.copy())
    own = {name: config[name] for name in ("embed_dim", "n_embed")}
    names = ("double_z", "z_channels", "resolution", "in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks")
    network = {name: config[name] for name in (*names, "attn_resolutions", "dropout")}
    model = vq_model({"ddconfig": network, "lossconfig": None, **own})
    model.load_state_dict(state, strict=True)
    outputs(model, np.load(given)["values"], out)


def lpips(given, out):
    tensors = {name: torch.tensor(value) for name, value in np.load(given).items()}
    one, other = (tensors.pop(name).permute(0, 3, 1, 2) for name in ("one", "other"))
    layers, inputs = [], 3
    for width, depth in zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True):  # VGG-16
        for size in [inputs] + [width] * (depth - 1):
            layers += [torch.nn.Conv2d(size, width, 3, padding=1), torch.nn.ReLU()]
        layers.append(torch.nn.MaxPool2d(2))
        inputs = width
    features = types.SimpleNamespace(features=torch.nn.Sequential(*layers))
    hollow = types.ModuleType("torchvision")
    hollow.models = types.SimpleNamespace(vgg16=lambda *given, **named: features)
    sys.modules["torchvision"] = hollow
    from taming.modules.losses import lpips as theirs

    theirs.LPIPS.load_from_pretrained = lambda self, *given: None
    model = theirs.LPIPS().eval()
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    other.requires_grad_(True)
    distance = model(one, other)
    distance.sum().backward()
    np.savez(out, distance=distance.detach().flatten(), gradient=last(other.grad))


def discriminator(given, out):
    from taming.modules.discriminator.model import NLayerDiscriminator

    tensors = {name: torch.tensor(value) for name, value in np.load(given).items()}
    values = tensors.pop("values").permute(0, 3, 1, 2)
    model = NLayerDiscriminator(3, 16, 3)
    left = model.load_state_dict(tensors, strict=False)
    assert not left.unexpected_keys and all("running" in one or "tracked" in one for one in left.missing_keys)
    np.savez(out, logits=last(model.train()(values)))


if __name__ == "__main__":
    commands = (dvae, new_taming, taming, flax, lpips, discriminator)
    {one.__name__: one for one in commands}[sys.argv[1]](*sys.argv[2:])
