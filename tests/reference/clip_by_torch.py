"""Run by the Python of another environment, which has torch: what a reference makes of a file, as an .npz.

clip_by_torch.py hugging_face FOLDER IN.npz OUT.npz     CLIPModel.from_pretrained of an exported folder
clip_by_torch.py new_hugging_face CONFIG.json FOLDER OUT.npz    a new CLIPModel in a folder, and a zero-shot choice
clip_by_torch.py openai SIZES.json FILE.pt OUT.npz      a new model of clip.model, saved as OpenAI saves, and outputs
"""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import torch


def hugging_face(folder: str, given: str, out: str) -> None:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = np.load(given)
    with torch.no_grad():
        result = model(input_ids=torch.tensor(inputs["ids"]), pixel_values=torch.tensor(inputs["pixels"]))
    np.savez(out, image=result.image_embeds, text=result.text_embeds, logits=result.logits_per_image)


def new_hugging_face(config: str, folder: str, out: str) -> None:
    from transformers import CLIPConfig, CLIPModel

    with open(config) as stream:
        given = json.load(stream)
    torch.manual_seed(0)
    model = CLIPModel._from_config(CLIPConfig(**given), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:  # norms and biases, which are ones and zeros at first
                value.normal_(0, 0.1) if name.endswith("bias") else value.normal_(1, 0.3)
            elif value.ndim > 1:
                value.mul_(4)
    model.save_pretrained(folder)
    text, size = given["text_config"], given["vision_config"]["image_size"]
    end, length = text["eos_token_id"], text["max_position_embeddings"]
    classes, wordings, images = 5, 3, 12
    ids = torch.randint(3, end, (classes * wordings, length))
    for row, place in enumerate(torch.randint(2, length, (len(ids),))):
        ids[row, place:] = end
    pixels = torch.randn(images, 3, size, size)
    with torch.no_grad():
        found = model(input_ids=ids, pixel_values=pixels)
    words = found.text_embeds.reshape(classes, wordings, -1).mean(dim=1)
    words = words / words.norm(dim=-1, keepdim=True)
    chances = (model.logit_scale.exp() * found.image_embeds @ words.T).softmax(dim=-1)
    np.savez(
        out, pixels=pixels, ids=ids, image=found.image_embeds, text=found.text_embeds, logits=found.logits_per_image,
        classes=words, chances=chances.detach(),
    )  # fmt: skip


def openai(sizes: str, file: str, out: str) -> None:
    package = importlib.util.find_spec("clip")  # not imported: that would need torchvision and more, unused here
    place = pathlib.Path(package.submodule_search_locations[0]) / "model.py"
    spec = importlib.util.spec_from_file_location("clip_model", place)
    clip_model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(clip_model)

    with open(sizes) as stream:
        given = json.load(stream)
    torch.manual_seed(0)
    layers = given["vision_layers"]
    model = clip_model.CLIP(**{**given, "vision_layers": tuple(layers) if isinstance(layers, list) else layers}).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2)
            elif value.is_floating_point() and value.ndim <= 1 and name != "logit_scale":
                value.normal_(0.5, 0.3)  # norms and biases, which are ones and zeros at first
    size, length, vocabulary = given["image_resolution"], given["context_length"], given["vocab_size"]
    pixels, ids = torch.randn(3, 3, size, size), torch.randint(1, vocabulary - 1, (3, length))
    ids[:, length // 2] = vocabulary - 1
    with torch.no_grad():
        image, text = model.encode_image(pixels), model.encode_text(ids)
        logits, _ = model(pixels, ids)
    torch.save(model.state_dict(), file)
    np.savez(out, pixels=pixels, ids=ids, image=image, text=text, logits=logits)


if __name__ == "__main__":
    {"hugging_face": hugging_face, "new_hugging_face": new_hugging_face, "openai": openai}[sys.argv[1]](*sys.argv[2:])
