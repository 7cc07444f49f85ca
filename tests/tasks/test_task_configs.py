"""The two halves of a task: a config without state or I/O, and the task that the config opens."""

from typing import get_args, get_type_hints

import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import Encoding, Manifest
from dalle_jax.models.heads.code_readout import CodeReadoutConfig
from dalle_jax.models.priors.mlp_prior import MlpPriorConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.mesh import Mesh, make_mesh
from dalle_jax.parallel.rules import Rules
from dalle_jax.rewards.read_scenes import ReadScenes
from dalle_jax.runs import TrainRun
from dalle_jax.tasks.align_readable_images import AlignReadableImages
from dalle_jax.tasks.align_text_images import AlignTextImages
from dalle_jax.tasks.denoise_codes import DenoiseCodes
from dalle_jax.tasks.denoise_images import DenoiseImages
from dalle_jax.tasks.fine_tuning.align_conditions import AlignConditions
from dalle_jax.tasks.fine_tuning.optimize_preferences import OptimizePreferences
from dalle_jax.tasks.forecast_codes import ForecastCodes
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions
from dalle_jax.tasks.predict_embeddings import PredictEmbeddings
from dalle_jax.tasks.reinforcement.reinforce import Reinforce
from dalle_jax.tasks.reinforcement.reinforce_decoder import ReinforceDecoder
from dalle_jax.tasks.task_config import TaskConfig
from dalle_jax.tasks.tokenizers.tokenize_images import TokenizeImages
from dalle_jax.tasks.tokenizers.tokenize_images_dvae import TokenizeImagesDvae
from dalle_jax.tasks.tokenizers.tokenize_images_gan import Pyramid, TokenizeImagesGan
from dalle_jax.tasks.upsample_images import UpsampleImages
from dalle_jax.train.task import Task
from tests.parallel.test_sharded_tasks import DVAE, MODELS, SIDE, UNREAD, VQGAN, VQVAE

READOUT = CodeReadoutConfig(codebook_size=16, code_width=8, grid=(4, 4), hidden=16, width=16)

LAYOUT = Layout(make_mesh(Mesh(1, 1, 1)), Rules())
CONFIGS = (
    TokenizeImages(model=VQVAE, image_size=SIDE),
    TokenizeImagesDvae(model=DVAE, image_size=SIDE),
    TokenizeImagesGan(model=VQGAN, image_size=SIDE, perceptual=Pyramid()),
    GenerateCodes(model=MODELS["dalle_bart"], captions=UNREAD),
    GenerateFromConditions(model=MODELS["llamagen"]),
    AlignConditions(generate=GenerateCodes(model=MODELS["dalle_bart"], captions=UNREAD), reference="absent"),
    ForecastCodes(generate=GenerateCodes(model=MODELS["dalle_bart"], captions=UNREAD), transformer="absent"),
    Reinforce(
        generate=GenerateCodes(model=MODELS["dalle_bart"], captions=UNREAD),
        reference="absent",
        rewards={"reader": ReadScenes()},
    ),
    OptimizePreferences(generate=GenerateCodes(model=MODELS["dalle_bart"], captions=UNREAD), reference="absent"),
    ReinforceDecoder(
        denoise=DenoiseCodes(model=MODELS["code_denoiser"], captions=UNREAD, image_size=SIDE),
        reference="absent",
        rewards={"reader": ReadScenes()},
    ),
    AlignTextImages(model=MODELS["clip"], captions=UNREAD),
    DenoiseCodes(model=MODELS["code_denoiser"], captions=UNREAD, image_size=SIDE),
    PredictEmbeddings(
        model=MlpPriorConfig(embed_width=8, width=8, hidden=8, layers=1),
        captions=UNREAD,
        text_length=6,
    ),
    DenoiseImages(model=MODELS["pixel_decoder"], captions=UNREAD, blank_clips=1.0),
    UpsampleImages(model=MODELS["upsampler"], image_size=SIDE, crop=8),
    AlignReadableImages(align=AlignTextImages(model=MODELS["clip"], captions=UNREAD), readout=READOUT),
)
FROZEN = {
    AlignConditions: {"reference"},
    OptimizePreferences: {"reference"},
    Reinforce: {"reference"},
    ReinforceDecoder: {"reference"},
    ForecastCodes: {"transformer"},
}
MANIFEST = Manifest(
    encoding=Encoding(
        source="images", examples=1, crops=1, image_size=SIDE, tokenizer="tokenizer-0", codebook_size=16, grid=(4, 4),
        shard_examples=1,
    ),
    image_tokenizer="absent", config="", shards=(),
)  # fmt: skip


def named(config: TaskConfig) -> str:
    return type(config).__name__


def test_every_task_of_a_train_run_is_here():
    assert {type(one) for one in CONFIGS} == set(get_args(get_type_hints(TrainRun)["task"]))


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_opening_leaves_the_config_as_it_is(config):
    assert isinstance(config, TaskConfig)
    before = dict(vars(config))
    task = config.open_for_plan()
    assert isinstance(task, Task)
    assert task.config is config and vars(config) == before
    assert task.batch_spec(3) == config.batch_spec(3)
    assert set(task.frozen()) == FROZEN.get(type(config), set())


@pytest.mark.parametrize(
    "config", [one for one in CONFIGS if hasattr(one, "captions") or hasattr(one, "generate")], ids=named
)
def test_training_needs_the_text_tokenizer_that_a_plan_can_go_without(config):
    with pytest.raises(UserError, match="unread"):
        config.open(LAYOUT)
    if isinstance(config, ForecastCodes):  # the heads read no text
        return
    with pytest.raises(ValueError, match="opened for a plan"):
        config.open_for_plan().model_files()


@pytest.mark.parametrize("config", CONFIGS[:3], ids=named)
def test_a_task_of_images_refuses_precomputed_codes(config):
    with pytest.raises(UserError, match=f"expected data of images for {named(config)}, got precomputed codes"):
        config.open(LAYOUT, MANIFEST)


def test_the_image_tokenizer_of_precomputed_codes_must_be_in_the_folder_of_the_manifest():
    config = GenerateFromConditions(model=MODELS["llamagen"])
    with pytest.raises(UserError, match=r"found none in absent; set it to the new folder of the image tokenizer"):
        config.open(LAYOUT, MANIFEST)
