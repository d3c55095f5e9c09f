"""The pydantic models of a profile's parts. `profile_references` checks the names that one part uses of another."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from qdit.core.run import IMPORTED
from qdit.sampling.protocol import MOST_GUIDANCE, MOST_SEED
from qdit.search.options import Kind
from qdit.workflow.profile_fields import Bits, Count, Name, Number, Part, Plain, Several, Text, Unique, matching
from qdit.workflow.profile_pipelines import Call, Judges, Pipeline
from qdit.workflow.profile_replicates import Replicates

PRINTED_KINDS = ("table1", "table2", "table3", "table4", "table5", "table6", "ptq4dit_table1", "tq_dit")
"""Kinds of tables with printed numbers in results/published/<kind>.csv."""

TableKind = Literal[
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
    "ptq4dit_table1",
    "tq_dit",
    "variants",
    "transfer",
    "integer",
    "methods",
    "qc",
    "tools",
]
"""What a table is: one of a paper, variants, transfer of allocations, both modes, several methods, controls, tools."""
Extractor = Literal["digit-classifier", "digit-classifier-16", "fashion-classifier", "inception-adm"]


class Compute(Part):
    """Where the profile computes, and in which precision it samples."""

    device: Literal["cpu", "cuda"] | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None


class Shape(Part):
    """The shape of a DiT; missing keys are as in DiT-XL/2 at 256×256. Weights of another shape are refused."""

    input_size: Count = 32
    patch_size: Count = 2
    in_channels: Count = 4
    hidden_size: Count = 1152
    depth: Count = 28
    num_heads: Count = 16
    mlp_ratio: Count = 4
    num_classes: Count = 1000


class Model(Part):
    """A model: its forms (name → weights), and how its samples are scored and decoded.

    An image model has an extractor and a reference. A video model has instruments, or a text encoder and a VAE.
    """

    forms: Annotated[dict[Name, Text], Field(min_length=1)]
    extractor: str | None = None
    reference: str | None = None
    """`digits`, `digits-16` or a name under `references`."""
    instruments: Text | None = None
    """Networks that score the clips of a model of moving digits."""
    text_encoder: Text | None = None
    """Folder of T5, of a video model of latents, whose clips VBench scores."""
    pipeline: Pipeline | None = None
    """Of a model whose forms are folders of whole pipelines of diffusers (docs/pipelines.md)."""
    shape: Shape | None = None
    vae: Text | None = None
    """Weights that decode latents, config.json beside them; none: the model makes pixels."""
    face: Text | None = None
    """What its samples show, where this differs from the profile's face: the first line of its tables."""


class FetchedFile(Part):
    """Where to download a file that is not part of the repository. Only `qdit fetch` downloads it."""

    url: Annotated[str, matching(r"https://\S+", "a web address that begins with https://")] | None = None
    hub: (
        Annotated[str, matching(r"[\w.-]+/[\w.-]+", "a repository on the Hugging Face hub such as owner/name")] | None
    ) = None
    file: Text | None = None
    """File in the repository of the hub; left out for the folder of a whole pipeline."""
    revision: Text | None = None
    sha256: (
        Annotated[str, matching("[0-9a-f]{8,64}", "a hex digest, or its first 8 or more characters, as text in quotes")]
        | None
    ) = None
    member: Text | None = None
    """Name of the file inside the zip archive at the url."""
    megabytes: Annotated[Number, Field(ge=0)] | None
    """About; for the plan. Null: unknown."""
    licence: Text


class Sampling(Part):
    """How many images a run has, how many a chunk (a batch, a file), and how many chunks a shard (a job)."""

    images: Annotated[int, Field(ge=4)]
    chunk: Count
    chunks_per_shard: Count
    resamples: Annotated[int, Field(ge=20)] = 200
    """Number of bootstrap resamples for the intervals."""


class Calibration(Part):
    """Number of noisy images or clips in each kind of calibration set."""

    trajectory: Count
    ndtc: Count
    ndtc_wide: Count = Field(alias="ndtc-wide")
    ndtc_released: Count = Field(alias="ndtc-released")
    uniform: Count
    per_step: Count = Field(alias="per-step")
    """Shared by all steps of the schedule."""
    regression: Count
    """At every step."""


class VBench(Part):
    """Files of VBench itself, for tables of kind table3 (docs/vbench.md)."""

    weights: Text
    """Folder."""
    python: Text | None = None
    """Python of VBench's environment; default results/<profile>/envs/vbench/bin/python."""


class Perceptual(Part):
    """LPIPS of all images: the network, torchvision's weights of the network, and the linear weights of LPIPS."""

    network: Literal["alex", "vgg"]
    backbone: Text
    linear: Text


class Fvd(Part):
    """The network of FVD, a TorchScript file. It is opened only if `files` has its whole sha256."""

    i3d: Text


class Video(Part):
    """Prompts and number of clips for every run of a video model."""

    suite: Text
    """Prompts and the dimensions each is scored in, in VBench's full_info schema."""
    prompts: Count | None = None
    """Distinct ones of the suite, for a plan while its file is not there."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Precision of sampling clips, instead of compute.dtype."""
    clips: Count
    """Number of clips for each prompt."""
    chunk: Count
    chunks_per_shard: Count
    calibration: Calibration


class Clip(Part):
    """Size of a clip, for a video model of latents. Without `shift` in the setting, this size decides the shift."""

    frames: Count
    height: Count
    """In pixels."""
    width: Count
    fps: Count


class Setting(Part):
    """A model with sampler, number of steps and guidance scale: the protocol of its runs."""

    model: str
    sampler: Literal["ddim", "ddpm", "rectified-flow", "pipeline"]
    steps: Annotated[int, Field(ge=1, le=1000)]
    cfg_scale: Annotated[Number, Field(ge=1, le=MOST_GUIDANCE)]
    shift: Annotated[Number, Field(gt=0)] | None = None
    """Shift of the timesteps of rectified flow: above 1 there are more steps at high noise."""
    clip: Clip | None = None
    call: Call | None = None
    """Arguments with which a pipeline is called."""
    labels: Literal["random", "balanced"] = "random"
    """Classes of the images: drawn at random, or each class equally often."""
    share: dict[Name, Annotated[Number, Field(gt=0, le=1)]] = Field(default_factory=dict)
    """Form → part of `sampling.images` that its runs have here, in whole chunks. Other forms have all images."""


class SearchedAt(Part):
    """Setting, form or bits at which the search runs, if they differ from those of the run that uses its result."""

    setting: str | None = None
    form: str | None = None
    bits: Bits | None = None
    setting_of: dict[str, str] = Field(default_factory=dict)
    """Model of a run → setting, for models that are searched elsewhere; without `setting`."""
    bits_of: dict[Bits, Bits] = Field(default_factory=dict)
    """Bits of a run → bits, for those that take the sizes of others; without `bits`."""


class OtherCalibration(Part):
    """Calibration data that a method uses in place of its usual kind or number."""

    ndtc: Literal["ndtc", "ndtc-wide"] | None = None
    per_step: Count | None = Field(default=None, alias="per-step")
    """Images at each step, unconditional copies included, instead of the profile's number for all steps."""


def with_method(entry: Any) -> Any:
    """Return an entry of `methods` with the key `method`: the name of a tool, or `imported` for images."""
    if not isinstance(entry, Mapping):
        return entry
    named = entry.get("tool", IMPORTED if "images" in entry else None)
    return dict(entry) if named is None else {"method": named, **entry}


class MethodEntry(Part):
    """An entry of `methods`: a method with its options, or a tool of other people, or images of another program."""

    method: str
    """Name of the method. For a tool it is the tool's name, for images `imported`; both may be left out."""
    tool: str | None = None
    """Name of a tool (`qdit tools list`)."""
    images: Annotated[dict[Bits, Text], Field(min_length=1)] | None = None
    """Bits, as their importer states them → a folder of PNGs or an npz, or for clips a folder of MP4 files."""
    setting: str | None = None
    """Only for images: the setting of the block that has the row."""
    form: str | None = None
    """Only for images: the form of the weights."""
    options: Plain = Field(default_factory=dict)
    allocation: Text | None = None
    """A file in the repository: layer → group size."""
    search: str | None = None
    """The allocation that this search finds, for each setting, form and bits of a run."""
    searched_at: SearchedAt | None = None
    base: str | None = None
    """Label whose checkpoints this method corrects instead of making its own (ptqd)."""
    calibration: OtherCalibration | None = None
    about: Text | None = None
    """What tables print for a label that is not a method of a paper."""

    @model_validator(mode="before")
    @classmethod
    def names_its_method(cls, content: Any) -> Any:
        """Add the key `method` to the entry of a tool or of images, which may leave it out."""
        return with_method(content)


class AllocationBudget(Part):
    """What all searches share: the group sizes, the budget (cost of `reference` in all layers), and the measurement."""

    sizes: Annotated[Unique[Count], Field(min_length=1)]
    reference: Count
    images: Annotated[int, Field(ge=2)]
    chunk: Count
    metric: Literal["fd_fp", "fid"]
    fresh: Annotated[int, Field(ge=0)] = 0


class Search(Part):
    """A search for group sizes: its kind, its seed and the options of this kind."""

    kind: Kind
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0
    """Seed of the search's random numbers and of its noise."""
    as_released: bool = False
    """Mean-group constraint, symmetric quantizers, replayed draws."""
    options: Plain = Field(default_factory=dict)


class Published(Part):
    """Says which printed rows stand beside the rows of a block, by resolution, steps and guidance scale."""

    resolution: int
    steps: int
    cfg_scale: Number


class Block(Part):
    """Rows of a table at one setting, form and scope."""

    setting: str
    form: str
    scope: Literal["common", "own"]
    bits: Annotated[Unique[Bits], Field(min_length=1)]
    methods: Annotated[Unique[str], Field(min_length=1)]
    fitted: Unique[str] = ()
    base: str | None = None
    """Only for the kind `variants`: the label that the other rows of the block are variants of."""
    published: Published | None = None


class Table(Part):
    """A table of the report: its kind, and its blocks of rows."""

    kind: TableKind
    title: Text | None = None
    """Instead of the kind's own."""
    opt_in: bool = False
    """Made only when it is named (snakemake --cores all NAME)."""
    fitted: Unique[str] = ()
    blocks: Several[Block]


class ProfileModel(Part):
    """A whole profile: models, settings, methods and tables, and how samples are made and scored."""

    profile: Name
    standalone: bool = False
    """A whole profile, nothing of config/mini.yaml is taken."""
    compute: Compute | None = None
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)]
    face: Text
    lossless_percent: Annotated[Number, Field(gt=0, le=100)] = 1
    """The lossless gate of a row: how far from full precision it may be, in per cent."""
    miniature: Text | None = None
    """What the miniature is made of; tables then say that published numbers are of another kind."""
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    extractors: Annotated[dict[Extractor, Text], Field(min_length=1)]
    references: dict[Name, Text] = Field(default_factory=dict)
    """Name → an ADM batch: mu, sigma, mu_s, sigma_s, arr_0."""
    files: dict[Text, FetchedFile] = Field(default_factory=dict)
    sampling: Sampling
    calibration: Calibration
    perceptual: Perceptual | None = None
    """Images of at least 32 pixels get LPIPS-FP; without this part no run has it."""
    judges: Judges | None = None
    """Images get the metrics of these networks."""
    vbench: VBench | None = None
    fvd: Fvd | None = None
    video: Video | None = None
    settings: Annotated[dict[Name, Setting], Field(min_length=1)]
    methods: Annotated[dict[Name, MethodEntry], Field(min_length=1)]
    allocation: AllocationBudget | None = None
    searches: dict[Name, Search] = Field(default_factory=dict)
    replicates: Replicates | None = None
    """Run-to-run spread; without this part every row is quantized once."""
    tables: Annotated[dict[Name, Table], Field(min_length=1)]


def json_schema() -> str:
    """Return the JSON schema of a profile, for editors. It does not check names that other parts must define."""
    schema = ProfileModel.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
