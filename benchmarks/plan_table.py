"""Plans of every published config on the slices below; the table in docs/scale.md is rewritten from them.

    python benchmarks/plan_table.py [--only dalle_mini ...]

No TPU is needed; libtpu is (pip install -e '.[plan]'). Each of the large models takes ten minutes or
more. The table is written from benchmarks/results/plans.json. With --only, the rows of other configs are kept in that
file. --only without a name plans nothing and only writes the table.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "scale.md", ROOT / "benchmarks" / "results" / "plans.json"
BEGIN, END = "<!-- plans: written by benchmarks/plan_table.py -->", "<!-- end of plans -->"
GIB = 2**30

PLANS = (
    ("dalle1_12b", "v5p:8x8x8"),
    ("dalle1_12b_v5e", "v5e:16x16"),
    ("dalle1_12b_v5e", "v6e:16x16"),
    ("dalle1_12b_four", "v5e:2x2"),
    ("dalle1_5b6", "v5p:4x4x4"),
    ("dalle1_2b8", "v4:4x4x4"),
    ("dalle_mini", "v5e:2x4"),
    ("dalle_mini", "2 slices of v5e:2x4"),
    ("dalle_mega", "tpu7x:4x4x4"),
    ("dalle_mega", "v4:4x4x4"),
    ("clip_vit_l14", "v5p:4x4x4"),
    ("dvae", "v5e:4x4"),
    ("vqgan_f16", "v5e:4x4"),
    ("llamagen_c2i_b", "v5e:2x4"),
    ("llamagen_t2i_xl", "v5p:4x4x4"),
    ("unclip_prior", "v5p:4x4x4"),
    ("unclip_prior_autoregressive", "v5p:4x4x4"),
    ("unclip/decoder", "v5p:4x4x4"),
    ("unclip/upsampler_256", "v5e:4x4"),
    ("unclip/upsampler_1024", "v5e:8x8"),
)
QUICK = {"unclip/decoder", "unclip/upsampler_256", "unclip/upsampler_1024"}
"""Configs whose compilation with XLA's full effort did not end in 17 CPU minutes."""


def plan(config: str, where: str) -> dict:
    slices, _, topology = where.rpartition(" slices of ")
    command = [
        sys.executable,
        "-m",
        "dalle_jax",
        "plan",
        f"configs/runs/{config}.gin",
        "--topology",
        topology,
        "--json",
        "--slices",
        slices or "1",
        *(["--quick"] if config in QUICK else []),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{config} on {topology}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def row(name: str, plan: dict) -> str:
    mesh = "x".join(str(size) for size in plan["mesh"].values())
    line = plan.get("roofline")
    sent = sum(kind["sent"] for kind in plan.get("collectives", {}).values())
    cells = [
        name,
        plan["topology"],
        mesh,
        f"{plan['batch']}" + (f" in {plan['accumulate']}" if plan["accumulate"] > 1 else ""),
        f"{plan['parameters'] / 1e9:.2f}",
        f"{plan['state_bytes'] / GIB:.2f}",
        "" if plan["initialisation_peak_bytes"] is None else f"{plan['initialisation_peak_bytes'] / GIB:.2f}",
        f"{plan['peak_bytes'] / GIB:.2f} of {plan['room_bytes'] / GIB:.2f}",
        f"{plan['model_flops']:.3g} / {plan['hardware_flops']:.3g}",
        f"{sent / GIB:.2f}" if line else "",
        f"{line['least_seconds']:.2f} to {line['most_seconds']:.2f}" if line else "",
        verdict(plan),
        f"{plan['compile_seconds']:.0f}" + (" (quick)" if plan.get("quick") else ""),
    ]
    return "| " + " | ".join(cells) + " |"


def verdict(plan: dict) -> str:
    if plan["fits"]:
        return "yes"
    batch, found = plan["largest_batch"], plan["smallest_slice"]
    words = "no; no batch does" if batch["fits"] is None else f"no; a batch of {batch['fits']} does"
    if found is None:
        return f"{words}, nor any slice"
    mesh = "x".join(str(size) for size in found["mesh"].values())
    return f"{words}; {found['topology']} with mesh {mesh} would do ({found['peak_bytes'] / GIB:.2f} GiB)"


def table(plans: dict) -> str:
    head = (
        "config", "slice", "mesh", "batch", "billion parameters", "state", "initialisation", "peak", "model / hardware "
        "FLOPs", "sent by a chip", "seconds of a step", "fits", "s to compile",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [row(key.split(" ")[0], found) for key, found in plans.items()]
    versions = {tuple(sorted(found["versions"].items())) for found in plans.values()}
    said = "; ".join(", ".join(f"{name} {version}" for name, version in one) for one in sorted(versions))
    return "\n".join([f"Compiled with {said}. GiB are per device of jax (a chip; half of one on tpu7x).", "", *lines])


def main() -> None:
    """Plan all configs, or those of ``--only``, and write the table into docs/scale.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="configs to plan anew")
    only = parser.parse_args().only
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    plans = {}
    for config, topology in PLANS:
        key = f"{config} {topology}"
        if only is None or config in only:
            print(key, file=sys.stderr, flush=True)
            known[key] = plan(config, topology)
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        if key in known:
            plans[key] = known[key]
    RESULTS.write_text(json.dumps(plans, indent=1) + "\n")
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table(plans)}\n{END}{after}")


if __name__ == "__main__":
    main()
