"""Run by the Python of another environment, which has torch and min-dalle: its networks and what they make.

new SIZES.json FOLDER OUT.npz       a new encoder and decoder, saved as they are published, with logits and greedy codes
detokenizer FILE.pt IN.npz OUT.npz  the images that VQGanDetokenizer draws of codes
"""

import json
import pathlib
import sys

import numpy as np
import torch

FIRST_UNUSED = 2**14
"""min-dalle draws no code from here on."""
BARE = ("pre_self_attn_layer_norm", "pre_encoder_attn_layer_norm", "glu.ln0", "glu.ln1", "final_ln")
"""Norms without a scale, which the published files leave out."""


def noisy(module):
    with torch.no_grad():
        for name, value in module.named_parameters():
            bare = any(name.endswith(f"{one}.weight") for one in BARE)
            if value.ndim == 1 and not bare:
                value.normal_(0.5, 0.3)
            elif value.ndim > 1:
                value.normal_(0, 0.2)


def new(sizes, folder, out):
    from min_dalle.models import DalleBartDecoder, DalleBartEncoder

    given = json.loads(pathlib.Path(sizes).read_text())
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    encoder = DalleBartEncoder(**given["encoder"], device="cpu").eval()
    decoder = DalleBartDecoder(**given["decoder"], device="cpu").eval()
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        noisy(module)
        if name == "decoder":
            module.lm_head.weight[-1] = 0  # the row of the start, which no published model would draw
        kept = {
            key: value
            for key, value in module.state_dict().items()
            if not any(key.endswith(f"{one}.weight") for one in BARE)
        }
        torch.save(kept, pathlib.Path(folder) / f"{name}.pt")
    length, vocabulary = given["encoder"]["text_token_count"], given["encoder"]["text_vocab_count"]
    text = torch.ones(2, length, dtype=torch.long)
    text[0, :2] = torch.tensor([0, 2])
    text[1, : length - 3] = torch.randint(3, vocabulary, (length - 3,))
    text[1, 0], text[1, length - 4] = 0, 2
    state, mask = encoder(text), text.not_equal(1)[:, None, None, :]
    start, positions = given["start"], torch.arange(256)
    drawn = torch.full((1, 257), start, dtype=torch.long)
    cache = torch.zeros(given["decoder"]["layer_count"], 4, 256, given["decoder"]["embed_count"])
    settings = torch.tensor([1.0, 1.0, given["guidance"]])  # the largest of one: greedy
    prompt, gaps = {"attention_mask": mask, "encoder_state": state}, []
    for i in range(256):
        step = prompt | {"prev_tokens": drawn[:, [i]], "token_index": positions[[i]]}
        logits = decoder(attention_state=cache.clone(), **step)[0][:, -1, :FIRST_UNUSED]
        guided = logits[0] * (1 - given["guidance"]) + logits[1] * given["guidance"]
        best = guided.topk(2).values
        gaps.append((best[0] - best[1]).item())
        drawn[:, i + 1], cache = decoder.sample_tokens(settings=settings, attention_state=cache, **step)
    whole = prompt | {"prev_tokens": drawn[:, :-1], "token_index": positions}
    logits = decoder(attention_state=torch.zeros_like(cache), **whole)[0]
    np.savez(out, text=text, encoded=state, codes=drawn[:, 1:], logits=logits, gap=min(gaps))


def detokenizer(file, given, out):
    from min_dalle.models import VQGanDetokenizer

    torch.set_grad_enabled(False)
    model = VQGanDetokenizer().eval()
    model.load_state_dict(torch.load(file, weights_only=True)["state_dict"], strict=True)
    codes = torch.tensor(np.load(given)["codes"]).long()
    found = {"theirs": model(False, codes)}
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.eps = 1e-6
    np.savez(out, same_epsilon=model(False, codes), **found)


if __name__ == "__main__":
    {"new": new, "detokenizer": detokenizer}[sys.argv[1]](*sys.argv[2:])
