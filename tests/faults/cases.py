"""The cases: a command on one of the inputs, the exit code it must end with, and words its one line must have."""

from dataclasses import dataclass

from tests.faults.inputs import SHAPE, WITHOUT_HEADS

METHODS = {
    "rtn": ("trajectory",),
    "q-dit": ("trajectory",),
    "g4w+p4a": ("trajectory", "ndtc"),
    "ptq4dm": ("ndtc",),
    "repq-vit": ("uniform",),
}
"""Methods → kinds of calibration data; each names its own in `qdit ls`."""


@dataclass(frozen=True)
class Case:
    """`command` is split at blanks; `@x` is a path below the inputs, `%x` one below the outputs, `$shape` JSON.

    A word `''` is an empty argument.
    """

    command: str
    words: str
    code: int = 0


def weights() -> list[Case]:
    """Section 2 and 7: files of weights."""
    good = (
        "plain",
        "train-py",
        "model-key",
        "state-dict-key",
        "ddp-prefix",
        "compile-prefix",
        "ema-ddp-prefix",
        "bf16",
    )
    refused = {
        "two-keys": "'model' and 'state_dict'",
        "other-key": "holds no tensors by its own names, found the keys epoch, weights",
        "numpy-scalar": "save the state dict alone",
        "no-positions": "pos_embed is missing",
        "one-row-table": "the label table has 1 row",
        "no-learned-sigma": "trained without learned variance",
        "qk-norm": "not expected (blocks.0.attn.q_norm.weight)",
        "one-nan": "blocks.1.mlp.fc1.weight: 1 of",
        "video": "holds a video model",
    }
    return [
        *(Case(f"import-weights @weights/{name}.pt %{name}.safetensors --shape $shape", "") for name in good),
        Case("import-weights @weights/bf16.pt %bf16.safetensors --shape $shape", ""),
        Case("import-weights @weights/not-contiguous.pt %n.safetensors --shape $shape", ""),
        Case("import-weights @weights/prefix.safetensors %p.safetensors --shape $shape", ""),
        *(Case(f"import-weights @weights/{n}.pt %x.safetensors --shape $shape", w, 2) for n, w in refused.items()),
        Case("import-weights @weights/plain.pt %x.safetensors --shape $headless", "state it, as in", 2),
        Case("import-weights @weights/plain.pt %x.safetensors --shape {}", "state it, as in", 2),
        Case("import-weights @folders/bare-stdit3.safetensors %x.safetensors --family stdit3", "weights of another", 2),
        Case("quantize @folders/bare-stdit3.safetensors %x --method fp --bits w16a16", "base_size, pixels_per_cell", 2),
    ]


def folders() -> list[Case]:
    """Section 3: folders, wherever weights are read."""
    loads = [f"quantize @folders/{name} %q-{name} --method fp --bits w16a16" for name in ("dit", "pipeline", "fp16")]
    return [
        *(Case(command, "") for command in loads),
        Case("quantize @folders/stdit3 %q-stdit3 --method fp --bits w16a16", ""),
        Case("calibrate @folders/pipeline %pipeline.safetensors --samples 4 --steps 2", ""),
        Case("quantize @folders/fp16-bf16 %x --method fp --bits w16a16", "several variants", 2),
        Case("quantize @folders/empty %x --method fp --bits w16a16", "has no config.json", 2),
        Case(
            "quantize @folders/dit/diffusion_pytorch_model.safetensors %x --method fp --bits w16a16",
            "give the folder",
            2,
        ),
        Case("export %q-dit %exported", ""),
    ]


def batches() -> list[Case]:
    """Sections 3 and 5: reference batches, images in and out."""
    imported = "import-reference @batches/{}.npz %{}.npz --extractor digit-classifier --extractor-weights $classifier"
    refused = {
        "no-channel": "(N, H, W, C)",
        "channels-first": "`qdit reference OUT",
        "float": "float32",
        "nan-sigma": "NaN or infinite",
        "skew-sigma": "not a covariance",
        "three": "holds 3 images, at least 4",
        "text-mu": "allowed are numbers",
        "colour": "digit-classifier",
        "statistics-only": "`qdit reference OUT --data statistics-only.npz`",
    }
    taken = ("images-only", "statistics-only", "whole", "no-channel", "channels-first", "no-channel-images",
             "channels-first-images", "fortran")  # fmt: skip
    wrong = {
        "three-images": "at least 4",
        "either-axis": "either of two axes",
        "five-axes": "no axis of 1 or 3",
        "float": "allowed is uint8",
        "object": "not a readable npz",
        "wide-mu": "5 features",
        "numbers": "has no images",
        "nan-sigma": "NaN or infinite",
    }
    return [
        *(Case(imported.format(name, name), "") for name in ("whole", "fortran")),
        *(Case(imported.format(name, "x"), words, 2) for name, words in refused.items()),
        *(Case(f"reference %r-{name}.npz --data @batches/{name}.npz", f"r-{name}.npz") for name in taken),
        *(Case(f"reference %x.npz --data @batches/{name}.npz", words, 2) for name, words in wrong.items()),
        Case("reference %r-png.npz --data @batches/png", "12 images"),
        Case("reference %x.npz --data @batches/png-sizes", "give one size", 2),
        Case("reference %x.npz --data @batches/png-damaged", "3.png: not a readable PNG", 2),
        Case("reference %x.npz --data @batches/png-alpha", "mode RGBA", 2),
        Case("reference %x.npz --data @batches/png-none", "holds no *.png", 2),
        Case("reference %x.npz --data digit", "no such file", 2),
        Case("import-samples @batches/with-labels.npz %imported --chunk 25", "64 images"),
        Case("features %imported", ""),
        Case("evaluate %imported %imported.json --reference-file %r-png.npz", ""),
        Case("evaluate %imported %x --reference-file %r-png.npz --checkpoint @batches", "leave --checkpoint out", 2),
        Case("evaluate %imported %x --reference-file %r-png.npz --steps 5", "--steps says 5; leave the flag out", 2),
        Case("export-samples %imported %out.npz", "64 images"),
        Case("export-samples %imported %out-png", "64 images"),
        Case("import-samples %out-png %again", "64 images"),
        Case("import-samples @batches/wrong-labels.npz %x", "one whole number for each", 2),
        Case("export-samples @batches %x.npz", "has no shard-000.json", 2),
        Case("export-samples %imported @batches/png-many", "80 other PNGs", 2),
        Case("import-samples @batches/images-only.npz %three-hundred", "300 images"),
        Case("export-samples %again %three-hundred/png", "64 images"),
        Case("export-samples %again @batches/png-damaged/3.png/x", "3.png", 2),
    ]


def degenerate() -> list[Case]:
    """Section 4: silent and nearly silent layers, by every method that needs no minutes."""
    cases: list[Case] = []
    names = ("tiny-row", "tiny-layer", "pruned-mlp", "dead-columns", "huge-weight", "zero-start")
    for name in (*names, "too-huge-weight"):
        for kind in ("trajectory", "ndtc", "uniform"):
            data = f"%{name}-{kind}.safetensors --kind {kind} --samples 8 --steps 4"
            cases.append(Case(f"calibrate @degenerate/{name}.safetensors {data}", ""))
    for name in names:
        for method, kinds in METHODS.items():
            data = " ".join(f"--calibration {kind}=%{name}-{kind}.safetensors" for kind in kinds)
            options = '{"group_size":16}' if method in ("rtn", "q-dit", "g4w+p4a") else "{}"
            command = f"quantize @degenerate/{name}.safetensors %{name}-{method} --method {method} --options {options}"
            cases.append(Case(f"{command} {data}", ""))
    wrong = "quantize @degenerate/too-huge-weight.safetensors %x --method {}"
    options = '--calibration trajectory=%too-huge-weight-trajectory.safetensors --options {"group_size":16}'
    return [
        *cases,
        *(Case(f"{wrong.format(method)} {options}", "blocks.0.mlp.fc2: scale", 2) for method in ("rtn", "q-dit")),
    ]


def vbench() -> list[Case]:
    """Sections 5 and 6: results and suites of VBench."""
    refused = {
        "hundreds": "scene has the score 323.99",
        "negative": "from 0 to 1",
        "nan": "nan",
        "text": "'0.3'",
        "null": "None",
        "true": "True",
        "list": "[0.3]",
        "clip-nan": "inf for 'a-0.mp4'",
        "clips-list": "clips is a list",
        "count-text": "samples is a str",
        "digests-list": "clips_sha256 is a list",
    }
    return [
        Case("vbench gather %good.json @vbench/good/*.json", ""),
        *(Case(f"vbench gather %x.json @vbench/{name}/*.json", words, 2) for name, words in refused.items()),
        Case("vbench gather %x.json @vbench/own.json", "not the score of a VBench dimension", 2),
        Case("vbench gather %x.json @vbench/deep.json", "nested too deeply", 2),
        Case("vbench check @clips/clips --suite @clips/suite.json --samples 2", "no prompt in suite.json"),
        Case("vbench check @clips/clips --suite @clips/one.json --samples 2", "no prompt asks for: 2 clips"),
        Case("vbench check @clips/clips --suite @clips/suite.json --dimension scene", "has no prompt for scene", 2),
        Case("vbench check @clips/clips --suite @clips/suite.json --samples 3", "missing or empty", 2),
        Case("vbench check @clips/clips --suite @clips/names.json", "", 2),
        Case("vbench check @clips/clips --suite @clips/deep.json", "not valid JSON", 2),
    ]


def damaged() -> list[Case]:
    """Section 9: files that claim what they do not hold, and outputs that are no files."""
    return [
        *(
            Case(f"import-samples @damaged/{name}.npz %x", "not a readable npz", 2)
            for name in ("huge", "bomb", "empty")
        ),
        Case("import-samples @damaged/flags.npz %x", "encrypted", 2),
        Case("quantize @weights/plain.pt %x --method fp --options @damaged/deep.json", "not valid JSON", 2),
        Case("reference /dev/null", "is a device", 2),
        Case("calibrate @degenerate/whole.safetensors /dev/null --samples 4 --steps 2", "is a device", 2),
        Case("reference @batches", "is a folder", 2),
        Case("import-weights @weights/plain.pt /proc/x.safetensors --shape $shape", "/proc/x.safetensors", 2),
    ]


def records() -> list[Case]:
    """Sections 1 and 9: flags that contradict the files (evaluate_flags), and values that no run can have."""
    sample = "sample %whole %x --images 8 --chunk 8 --steps 3"
    evaluate = "evaluate %whole-samples %x --checkpoint %whole --reference-file %r-png.npz"
    search = "search @degenerate/whole.safetensors %x --kind uniform --reference-size 16"
    return [
        Case("quantize @degenerate/whole.safetensors %whole --method fp --bits w16a16", ""),
        Case("sample %whole %whole-samples --images 8 --chunk 8 --steps 3 --extractor digit-classifier", "8 of 8"),
        Case(f"{evaluate} --steps 50", "steps", 2),
        Case(f"{evaluate} --cfg-scale 7.5", "cfg", 2),
        Case(f"{evaluate} --seed 9", "seed", 2),
        Case(f"{evaluate} --sampler ddpm", "sampler", 2),
        Case("evaluate %whole-samples %whole.json --checkpoint %whole --reference-file %r-png.npz", ""),
        Case("sample %whole %x --images 8 --chunk 8 --steps 3 --cfg-scale inf", "cfg", 2),
        Case(f"{sample} --cfg-scale 0.5", "cfg_scale 0.5", 2),
        Case("calibrate @degenerate/whole.safetensors %x --samples 4 --steps 2 --cfg-scale 1e30", "cfg_scale", 2),
        Case(f"{sample} --threads 100000", "--threads 100000", 2),
        Case("sample %whole '' --images 8", "is empty", 2),
        Case("run --dry-run --row ''", "is empty", 2),
        Case(f"{search} --sizes 16,16", "16 is there twice", 2),
        Case(f"{search} --sizes 16 --search-seed -1", "search seed -1", 2),
        Case("methods q-dit", "group_size"),
        *(Case(f"{name} --results @batches", "found no result", 2) for name in ("leaderboard", "report", "figures")),
        Case("table table2 --results @batches", "found no result", 2),
    ]


def options() -> list[Case]:
    """Section 5: options by hand of wrong types and out of range (option_types)."""
    data = {"q-dit": "trajectory", "tfmq-dm": "per-step"}
    wrong = [
        ("q-dit", '{"group_size":16.0}', "group_size is 16.0"),
        ("q-dit", '{"group_size":"16"}', "group_size is '16'"),
        ("q-dit", '{"group_size":true}', "group_size is True"),
        ("q-dit", '{"group_size":16,"group_size":8}', "is there twice"),
        ("q-dit", '{"gruop_size":16}', "did you mean"),
        ("q-dit", "[]", "--options"),
        ("tfmq-dm", '{"iterations":"10"}', "iterations is '10'"),
        ("tfmq-dm", '{"iterations":-5}', "iterations is -5"),
    ]
    quantize = "quantize @degenerate/whole.safetensors %x --method {0} --calibration {1}=%whole-{1}.safetensors"
    return [
        *(
            Case(f"calibrate @degenerate/whole.safetensors %whole-{kind}.safetensors --kind {kind} --samples 8", "")
            for kind in data.values()
        ),
        *(Case(f"{quantize.format(method, data[method])} --options {text}", words, 2) for method, text, words in wrong),
    ]


def profiles() -> list[Case]:
    """Section 9: overlays that drop a block, leave the checkout or fetch over http."""
    wrong = {
        "twice": "twice",
        "outside": "../x",
        "loaded": "baselines/evil.py",
        "http": "http",
        "long": "at most 100",
        "typo": "metods",
    }
    return [Case(f"ls --profile mini --profile @profiles/{name}.yaml", words, 2) for name, words in wrong.items()]


CASES = [
    *weights(),
    *folders(),
    *batches(),
    *degenerate(),
    *vbench(),
    *damaged(),
    *records(),
    *options(),
    *profiles(),
]
VALUES = {"$shape": SHAPE, "$headless": WITHOUT_HEADS}
