import pytest

from dalle_jax.__main__ import main

SAMPLE = ["--prompt", "a red circle", "--candidates", "2", "--decoding", "jacobi", "--window", "4"]


def test_a_model_that_is_no_forecasting_heads_is_refused(smoke_demo, tmp_path, capsys):
    flags = ["--model", str(smoke_demo), "--forecast", str(smoke_demo / "transformer"), *SAMPLE]
    assert main(["sample", *flags, "--out", str(tmp_path / "other")]) == 2
    assert "expected a ForecastHeads, got a Dalle" in capsys.readouterr().err


@pytest.mark.slow
def test_heads_are_trained_and_their_transformer_samples_the_same_images_with_them(smoke_demo, tmp_path):
    files = {"task.transformer": "transformer", "task.generate.captions.file": "text.model"}
    files |= {"task.generate.image_tokenizer": "tokenizer"}
    sets = [word for name, file in files.items() for word in ("--set", f"{name}='{smoke_demo / file}'")]
    heads = tmp_path / "heads"
    assert main(["train", "smoke/forecast_codes.gin", *sets, "--out", str(heads)]) == 0
    lines = (heads / "metrics.jsonl").read_text()
    assert "train/right_1" in lines and "evaluation/copied_2" in lines
    images = []
    for more in ([], ["--forecast", str(heads)]):
        out = tmp_path / f"images{len(images)}"
        assert main(["sample", "--model", str(smoke_demo), *SAMPLE, *more, "--out", str(out)]) == 0
        images.append((out / "0000_00.png").read_bytes())
    assert images[0] == images[1]
