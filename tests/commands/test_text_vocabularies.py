from dalle_jax.__main__ import main
from dalle_jax.pipelines.load.text import load_text

CLIP = "#version: 0.2\nr e\nre d</w>\n"


def test_a_transformer_trains_with_clips_tokenizer_and_stores_it_for_sampling(smoke_demo, tmp_path):
    vocabulary, out = tmp_path / "clip.txt", tmp_path / "transformer"
    vocabulary.write_text(CLIP, encoding="utf-8")
    sets = [
        f"task.captions.file='{vocabulary}'",
        "task.captions.vocabulary=@ClipBpe",
        "task.captions.dropout=0.1",
        "task.model.text_vocab=516",
        f"task.image_tokenizer='{smoke_demo / 'tokenizer'}'",
        "trainer.steps=1",
        "trainer.evaluate_every=None",
        "trainer.images_every=None",
        "mesh.data=1",
    ]
    flags = [part for one in sets for part in ("--set", one)]
    assert main(["train", "smoke/dalle.gin", "--out", str(out), *flags]) == 0
    vocabulary.unlink()
    assert load_text(out, 16).encode_batch(["a red"])[0, :5].tolist() == [514, 64 + 256, 513, 515, 0]
    drawn = ["--candidates", "1", "--keep", "1", "--out", str(tmp_path / "images")]
    assert main(["sample", "--model", str(out), "--prompt", "a red circle", *drawn]) == 0
    assert (tmp_path / "images" / "grid.png").is_file()
